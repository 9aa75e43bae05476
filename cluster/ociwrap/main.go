// Command ociwrap is an OCI runtime that asks for no more than the host grants, then becomes runc.
//
// Some hosts withhold CAP_SYS_RESOURCE even from root. runc then refuses a privileged container, because the
// container asks for a capability outside the bounding set, for limits above the hard limit, or for a negative
// OOM score. This program takes exactly those three requests out of the specification and executes runc in its
// own place: nothing else changes, and nothing the host withholds is obtained by another way.
//
// It runs several times for every container, so it is a small static program and not a script.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

const withheld = "CAP_SYS_RESOURCE"

// runtimeEnv names another runtime than the runc found on the path (the tests use it).
const runtimeEnv = "OCIWRAP_RUNTIME"

func main() {
	if path, isProcess := specification(os.Args[1:]); path != "" {
		if err := relax(path, isProcess); err != nil {
			fmt.Fprintf(os.Stderr, "ociwrap: %s: %v\n", path, err)
			os.Exit(1)
		}
	}
	runtime, err := findRuntime()
	if err != nil {
		fmt.Fprintf(os.Stderr, "ociwrap: %v\n", err)
		os.Exit(1)
	}
	argv := append([]string{runtime}, os.Args[1:]...)
	if err := syscall.Exec(runtime, argv, os.Environ()); err != nil {
		fmt.Fprintf(os.Stderr, "ociwrap: exec %s: %v\n", runtime, err)
		os.Exit(1)
	}
}

func findRuntime() (string, error) {
	if runtime := os.Getenv(runtimeEnv); runtime != "" {
		return runtime, nil
	}
	// A shim may run with an empty PATH; these are where Debian and the Docker packages put runc.
	for _, candidate := range []string{"/usr/sbin/runc", "/usr/bin/runc", "/usr/local/sbin/runc"} {
		if info, err := os.Stat(candidate); err == nil && info.Mode()&0o111 != 0 {
			return candidate, nil
		}
	}
	return exec.LookPath("runc")
}

// specification returns the file a runc command line will read: the bundle's config.json for create, run and
// restore, the process file for exec (isProcess), or "" when the command reads neither.
func specification(args []string) (path string, isProcess bool) {
	command, rest := subcommand(args)
	switch command {
	case "create", "run", "restore":
		bundle := option(rest, "--bundle", "-bundle", "-b")
		if bundle == "" {
			bundle = "."
		}
		return filepath.Join(bundle, "config.json"), false
	case "exec":
		return option(rest, "--process", "-process", "-p"), true
	}
	return "", false
}

// subcommand skips runc's global options; those that take a value are listed, because the value may not be
// mistaken for the command.
func subcommand(args []string) (string, []string) {
	valued := map[string]bool{"log": true, "log-format": true, "root": true, "criu": true, "rootless": true}
	for i := 0; i < len(args); i++ {
		if !strings.HasPrefix(args[i], "-") {
			return args[i], args[i+1:]
		}
		name := strings.TrimLeft(args[i], "-")
		if !strings.Contains(name, "=") && valued[name] {
			i++
		}
	}
	return "", nil
}

func option(args []string, names ...string) string {
	for i, arg := range args {
		for _, name := range names {
			if arg == name && i+1 < len(args) {
				return args[i+1]
			}
			if value, ok := strings.CutPrefix(arg, name+"="); ok {
				return value
			}
		}
	}
	return ""
}

// relax edits the specification in place, and leaves the file alone when it asks for nothing withheld.
func relax(path string, isProcess bool) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var document map[string]any
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber() // limits are 64-bit: a float would round them
	if err := decoder.Decode(&document); err != nil {
		return err
	}
	process := document
	if !isProcess {
		nested, ok := document["process"].(map[string]any)
		if !ok {
			return nil
		}
		process = nested
	}
	if !relaxProcess(process) {
		return nil
	}
	edited, err := json.Marshal(document)
	if err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	temporary := path + ".ociwrap"
	if err := os.WriteFile(temporary, edited, info.Mode().Perm()); err != nil {
		return err
	}
	return os.Rename(temporary, path)
}

func relaxProcess(process map[string]any) bool {
	changed := false
	if sets, ok := process["capabilities"].(map[string]any); ok {
		for kind, value := range sets {
			names, ok := value.([]any)
			if !ok {
				continue
			}
			kept := make([]any, 0, len(names))
			for _, name := range names {
				if name != withheld {
					kept = append(kept, name)
				}
			}
			if len(kept) != len(names) {
				sets[kind] = kept
				changed = true
			}
		}
	}
	if _, ok := process["rlimits"]; ok {
		delete(process, "rlimits")
		changed = true
	}
	if score, ok := process["oomScoreAdj"].(json.Number); ok && strings.HasPrefix(score.String(), "-") {
		process["oomScoreAdj"] = 0
		changed = true
	}
	return changed
}
