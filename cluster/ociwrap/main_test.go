package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const privileged = `{
  "ociVersion": "1.0.2",
  "process": {
    "args": ["/sbin/init"],
    "capabilities": {
      "bounding": ["CAP_CHOWN", "CAP_SYS_RESOURCE", "CAP_SYS_ADMIN"],
      "effective": ["CAP_SYS_RESOURCE"]
    },
    "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1073741816, "soft": 1073741816}],
    "oomScoreAdj": -999
  },
  "linux": {"resources": {"memory": {"limit": 9007199254740993}}}
}`

func read(t *testing.T, path string) map[string]any {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var document map[string]any
	if err := json.Unmarshal(raw, &document); err != nil {
		t.Fatal(err)
	}
	return document
}

func TestRelaxTakesOutOnlyWhatIsWithheld(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(path, []byte(privileged), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := relax(path, false); err != nil {
		t.Fatal(err)
	}
	process := read(t, path)["process"].(map[string]any)
	sets := process["capabilities"].(map[string]any)
	if got := len(sets["bounding"].([]any)); got != 2 {
		t.Errorf("bounding keeps %d capabilities, want 2", got)
	}
	if got := len(sets["effective"].([]any)); got != 0 {
		t.Errorf("effective keeps %d capabilities, want 0", got)
	}
	if _, ok := process["rlimits"]; ok {
		t.Error("rlimits are still there")
	}
	if process["oomScoreAdj"] != 0.0 {
		t.Errorf("oomScoreAdj is %v, want 0", process["oomScoreAdj"])
	}
	raw, _ := os.ReadFile(path)
	if !json.Valid(raw) || !strings.Contains(string(raw), "9007199254740993") {
		t.Error("a 64-bit number was rounded")
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o640 {
		t.Errorf("mode is %v, want 0640", info.Mode().Perm())
	}
}

func TestRelaxLeavesAModestSpecificationAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.json")
	modest := `{"process": {"capabilities": {"bounding": ["CAP_CHOWN"]}, "oomScoreAdj": 100}}`
	if err := os.WriteFile(path, []byte(modest), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := relax(path, false); err != nil {
		t.Fatal(err)
	}
	if raw, _ := os.ReadFile(path); string(raw) != modest {
		t.Errorf("the file was rewritten: %s", raw)
	}
}

func TestSpecificationIsFoundOnTheCommandLine(t *testing.T) {
	for _, sample := range []struct {
		args      []string
		path      string
		isProcess bool
	}{
		{[]string{"--root", "/run/x", "--log", "l", "create", "--bundle", "/b", "id"}, "/b/config.json", false},
		{[]string{"--root=/run/x", "run", "-b=/b", "id"}, "/b/config.json", false},
		{[]string{"create", "id"}, "config.json", false},
		{[]string{"--systemd-cgroup", "exec", "--process", "/tmp/p", "id"}, "/tmp/p", true},
		{[]string{"exec", "id", "sh"}, "", true},
		{[]string{"--root", "exec", "state", "id"}, "", false},
	} {
		path, isProcess := specification(sample.args)
		if path != sample.path || isProcess != sample.isProcess {
			t.Errorf("%v: got %q %v, want %q %v", sample.args, path, isProcess, sample.path, sample.isProcess)
		}
	}
}
