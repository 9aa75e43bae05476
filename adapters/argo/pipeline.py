"""The workloads as Argo Workflows users would write them with hera: templates that runs refer to.

Files travel as S3 artifacts, scalars as parameters. The `volume` variant keeps the files on a shared volume
and passes their addresses as parameters; it is labelled, since such a volume does not survive a second node.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from hera.workflows import (
    DAG,
    Artifact,
    ClusterWorkflowTemplate,
    Container,
    CronWorkflow,
    NoneArchiveStrategy,
    Parameter,
    RetryStrategy,
    S3Artifact,
    Suspend,
    Task,
    Workflow,
    WorkflowTemplate,
)
from hera.workflows import models as m

from adapters import podspec
from adapters.base import BenchError, RunRequest
from adapters.targets import PIPELINE_NAMESPACE
from adapters.workloads import SWEEP

SERVICE_ACCOUNT = "pipeline-argo"
SHARED_CLAIM = "pipeline-shared"
BUCKET_FOLDER = "runs/{{workflow.name}}/{{pod.name}}"

NOT_BAD_INPUT = "lastRetry.exitCode != '2'"
"""A step that ends with 2 was given something that cannot work: trying again is pointless."""

FILES = {
    "ratings": "ratings.parquet",
    "train": "train.npz",
    "heldout": "heldout.npz",
    "model": "model.joblib",
    "metrics": "metrics.json",
}

DEFAULTS: Mapping[str, str] = {
    "dataset-uri": "bookstore://generated",
    "n-books": "200",
    "seed": "42",
    "k": "5",
    "min-score-gate": "0.05",
    "train-seconds": "0",
    "model-name": "recommender",
    "drift-threshold": "0.25",
    "promote-order": "safe",
    "promote-retries": "2",
    "fibo": "10",
    "sleep-seconds": "0",
    "width": "10",
    "fault": "null",
}
"""Parameters of every template and what they are where a run does not say."""
PIPELINE_PARAMETERS = tuple(name for name in DEFAULTS if name not in ("fibo", "sleep-seconds", "width"))
PROBE_PARAMETERS = ("fibo", "sleep-seconds", "fault")

KEPT = (
    "recommender-pipeline",
    "recommender-pipeline-volume",
    "recommender-pipeline-approve",
    "fanout",
    "sweep",
)
"""The templates that are on the cluster from `deploy` on; others are made when a run needs them."""


def template_name(request: RunRequest) -> str:
    """The template that a run refers to. Raises `BenchError` for an approval where nothing is promoted."""
    if request.approval and request.workload != "pipeline":
        raise BenchError(f"{request.workload} promotes nothing to approve", "workload pipeline")
    match request.workload:
        case "pipeline":
            name = "recommender-pipeline"
        case "chain":
            name = f"chain-{request.steps}"
        case other:
            name = other
    if request.workload == "pipeline" and request.variant == "volume":
        name += "-volume"
    if request.approval:
        name += "-approve"
    if request.retries_as_shipped:
        name += "-as-shipped"
    return name


def definition(image: str, request: RunRequest) -> Workflow:
    """The template of `template_name(request)`."""
    name = template_name(request)
    match request.workload:
        case "pipeline":
            volume = request.variant == "volume"
            template = pipeline(image, name=name, volume=volume, approve=request.approval)
        case "chain":
            template = chain(image, request.steps)
        case "fanout":
            template = fanout(image)
        case _:
            template = sweep(image)
    template.name = name
    if request.retries_as_shipped:
        for each in template.templates:
            if isinstance(each, Container):
                each.retry_strategy = None
    return template


def _setting(name: str, value: str) -> list[str]:
    return ["--set", f"{name.replace('-', '_')}={value}"]


def _step(
    image: str,
    step: str,
    *,
    settings: Sequence[str],
    inputs: Sequence[str] = (),
    files_in: Sequence[str] = (),
    files_out: Sequence[str] = (),
    outputs: Sequence[str] = (),
    inline: Sequence[str] = (),
    known: Mapping[str, str] | None = None,
    indexed: bool = False,
    retries: str = "2",
    volume: bool = False,
) -> Container:
    """One step of the shared core as a container template.

    A file travels as an artifact, and its durable address beside it as a parameter, for the lineage record.

    `inputs` are scalars from earlier steps, `files_in` and `files_out` artifacts, `outputs` scalars it
    leaves, `settings` workflow parameters it reads, `inline` parameters that its task sets itself, `known`
    inputs that Argo fills in.
    """
    given: list[Any] = [Parameter(name=name) for name in (*inputs, *inline)]
    args = [step, "--run-id", "{{workflow.name}}", "--results-dir", "/results"]
    for name in settings:
        args += _setting(name, f"{{{{workflow.parameters.{name}}}}}")
    for name in inline:
        args += _setting(name, f"{{{{inputs.parameters.{name}}}}}")
    if indexed:
        given.append(Parameter(name="index"))
        args += ["--index", "{{inputs.parameters.index}}"]
    uris = [f"{name}_uri" for name in files_in if f"{name}_uri" not in inputs]
    given += [Parameter(name=name) for name in uris]
    for name in (*inputs, *uris):
        args += ["--input", f"{name}={{{{inputs.parameters.{name}}}}}"]
    for name, value in (known or {}).items():
        args += ["--input", f"{name}={value}"]

    names = dict.fromkeys((*outputs, *(f"{name}_uri" for name in files_out)))
    left: list[Any] = [
        Parameter(name=name, value_from=m.ValueFrom(path=f"/results/{name}")) for name in names
    ]
    mounts = [m.VolumeMount(name=x["name"], mount_path=x["mountPath"]) for x in podspec.mounts()]
    if volume:
        args += ["--output-dir", "file:///shared/" + BUCKET_FOLDER]
        mounts.append(m.VolumeMount(name="shared", mount_path="/shared"))
    else:
        for name in files_in:
            given.append(Artifact(name=name, path=f"/in/{FILES[name]}"))
            args += ["--input", f"{name}=/in/{FILES[name]}"]
        left += [
            S3Artifact(
                name=name,
                path=f"/out/{FILES[name]}",
                key=f"{BUCKET_FOLDER}/{FILES[name]}",
                archive=NoneArchiveStrategy(),
            )
            for name in files_out
        ]
        args += ["--output-dir", "/out", "--publish-uri", "s3://artifacts/" + BUCKET_FOLDER]

    return Container(
        name=step,
        image=image,
        image_pull_policy="IfNotPresent",
        command=["step"],
        args=args,
        inputs=given,
        outputs=left,
        env=[m.EnvVar.model_validate(entry) for entry in podspec.env(image.rsplit("@", 1)[1])],
        env_from=[m.EnvFromSource.model_validate(entry) for entry in podspec.env_from()],
        resources=m.ResourceRequirements.model_validate(podspec.RESOURCES),
        security_context=m.SecurityContext.model_validate(podspec.CONTAINER_SECURITY),
        volume_mounts=mounts,
        retry_strategy=RetryStrategy(limit=retries, retry_policy="Always", expression=NOT_BAD_INPUT),
        labels={podspec.RUN_LABEL: "{{workflow.name}}", podspec.STEP_LABEL: step},
    )


def _common(parameters: Sequence[str], volume: bool = False) -> dict[str, Any]:
    volumes = [m.Volume.model_validate(entry) for entry in podspec.volumes()]
    if volume:
        claim = m.PersistentVolumeClaimVolumeSource(claim_name=SHARED_CLAIM)
        volumes.append(m.Volume(name="shared", persistent_volume_claim=claim))
    return {
        "namespace": PIPELINE_NAMESPACE,
        "entrypoint": "main",
        "service_account_name": SERVICE_ACCOUNT,
        "arguments": [Parameter(name=name, value=DEFAULTS[name]) for name in parameters],
        "volumes": volumes,
        # The namespace enforces Pod Security `restricted`; the pod's half of it is patched in for all steps.
        "pod_spec_patch": yaml.safe_dump({"securityContext": podspec.POD_SECURITY}),
        "archive_logs": False,
    }


def _output(task: str, name: str) -> str:
    return f"{{{{tasks.{task}.outputs.parameters.{name}}}}}"


def _task(
    name: str,
    template: Container | DAG,
    depends: str | None = None,
    scalars: Mapping[str, str] | None = None,
    files: Mapping[str, str] | None = None,
    volume: bool = False,
    **more: Any,
) -> Task:
    """A task whose `scalars` are parameter values and whose `files` come from the tasks named."""
    arguments: list[Any] = [Parameter(name=key, value=value) for key, value in (scalars or {}).items()]
    for artifact, source in (files or {}).items():
        if f"{artifact}_uri" not in (scalars or {}):
            arguments.append(Parameter(name=f"{artifact}_uri", value=_output(source, f"{artifact}_uri")))
        if not volume:
            arguments.append(
                m.Artifact(name=artifact, from_=f"{{{{tasks.{source}.outputs.artifacts.{artifact}}}}}")
            )
    return Task(name=name, template=template, depends=depends, arguments=arguments, **more)


def pipeline(
    image: str,
    *,
    name: str = "recommender-pipeline",
    volume: bool = False,
    approve: bool = False,
    kind: type[WorkflowTemplate] = WorkflowTemplate,
) -> Workflow:
    """The seven steps as a DAG with the gate as `when`; `approve` suspends before promote until somebody says so."""
    common = _common(PIPELINE_PARAMETERS, volume)
    if kind is ClusterWorkflowTemplate:
        common.pop("namespace")
    with kind(name=name, **common) as template:
        ingest = _step(
            image,
            "ingest",
            settings=("dataset-uri", "n-books", "seed", "fault"),
            files_out=("ratings",),
            outputs=("dataset_uri", "dataset_sha256"),
            volume=volume,
        )
        preprocess = _step(
            image,
            "preprocess",
            settings=("seed", "fault"),
            files_in=("ratings",),
            files_out=("train", "heldout"),
            volume=volume,
        )
        train = _step(
            image,
            "train",
            settings=("seed", "k", "train-seconds", "fault"),
            files_in=("train",),
            files_out=("model",),
            outputs=("model_uri", "model_sha256"),
            volume=volume,
        )
        evaluate = _step(
            image,
            "eval",
            settings=("k", "min-score-gate", "fault"),
            inputs=("model_sha256",),
            files_in=("model", "heldout"),
            files_out=("metrics",),
            outputs=("score", "passed"),
            volume=volume,
        )
        register = _step(
            image,
            "register",
            settings=(
                "dataset-uri",
                "n-books",
                "seed",
                "k",
                "train-seconds",
                "min-score-gate",
                "model-name",
                "fault",
            ),
            inputs=("dataset_uri", "dataset_sha256", "model_uri", "model_sha256", "score", "passed"),
            files_in=("model", "metrics"),
            outputs=("model_name", "model_version", "lineage_uri"),
            volume=volume,
        )
        promote = _step(
            image,
            "promote",
            settings=("model-name", "promote-order", "fault"),
            inputs=("model_version", "score", "passed"),
            outputs=("promoted", "served_sha256"),
            # Not safe to repeat in the naive order: such runs set promote-retries to 0.
            retries="{{workflow.parameters.promote-retries}}",
            volume=volume,
        )
        monitor = _step(
            image,
            "monitor",
            settings=("drift-threshold", "fault"),
            inputs=("model_sha256", "promoted"),
            files_in=("heldout",),
            outputs=("served_sha256", "drift", "drifted"),
            volume=volume,
        )
        # Exit handler: says how the workflow ended, in the ledger. Runs that are measured leave it out
        # (it is one more pod); the nightly ones have it.
        _step(image, "outcome", settings=(), known={"status": "{{workflow.status}}"}, volume=volume)
        if approve:
            Suspend(name="approve")  # without a duration: after one, Argo would go on by itself
        trained = {
            "model_uri": _output("train", "model_uri"),
            "model_sha256": _output("train", "model_sha256"),
        }
        data = {
            "dataset_uri": _output("ingest", "dataset_uri"),
            "dataset_sha256": _output("ingest", "dataset_sha256"),
        }
        version = {"model_version": _output("register", "model_version")}
        gate = {"score": _output("eval", "score"), "passed": _output("eval", "passed")}
        v = volume
        with DAG(name="main"):
            _task("ingest", ingest, volume=v)
            _task("preprocess", preprocess, "ingest.Succeeded", files={"ratings": "ingest"}, volume=v)
            _task("train", train, "preprocess.Succeeded", files={"train": "preprocess"}, volume=v)
            _task(
                "eval",
                evaluate,
                "train.Succeeded",
                scalars={"model_sha256": trained["model_sha256"]},
                files={"model": "train", "heldout": "preprocess"},
                volume=v,
            )
            _task(
                "register",
                register,
                "eval.Succeeded",
                scalars={**data, **trained, **gate},
                files={"model": "train", "metrics": "eval"},
                volume=v,
                when=f"{_output('eval', 'passed')} == true",
            )
            before_promote = "register.Succeeded"
            if approve:
                Task(name="approve", template="approve", depends="register.Succeeded")
                before_promote = "approve.Succeeded"
            _task(
                "promote",
                promote,
                before_promote,
                scalars={**version, **gate},
                volume=v,
            )
            _task(
                "monitor",
                monitor,
                "promote.Succeeded",
                scalars={
                    "model_sha256": trained["model_sha256"],
                    "promoted": _output("promote", "promoted"),
                },
                files={"heldout": "preprocess"},
                volume=v,
            )
    return template


def chain(image: str, length: int) -> Workflow:
    """`length` small steps, one after another."""
    with WorkflowTemplate(name=f"chain-{length}", **_common(PROBE_PARAMETERS)) as template:
        probe = _step(image, "probe", settings=PROBE_PARAMETERS, outputs=("value",), indexed=True)
        with DAG(name="main"):
            for index in range(length):
                depends = f"probe-{index - 1}.Succeeded" if index else None
                _task(f"probe-{index}", probe, depends, scalars={"index": str(index)})
    return template


def fanout(image: str) -> Workflow:
    """`width` sleeping steps at once."""
    with WorkflowTemplate(name="fanout", **_common((*PROBE_PARAMETERS, "width"))) as template:
        probe = _step(image, "probe", settings=PROBE_PARAMETERS, outputs=("value",), indexed=True)
        with DAG(name="main"):
            _task(
                "probe",
                probe,
                scalars={"index": "{{item}}"},
                with_sequence=m.Sequence(count="{{workflow.parameters.width}}"),
            )
    return template


def sweep(image: str) -> Workflow:
    """Four candidates (seed, k) side by side through `withItems`; the best is picked and registered."""
    shared = ("n-books", "min-score-gate", "train-seconds", "model-name", "fault")
    with WorkflowTemplate(name="sweep", **_common(("dataset-uri", "seed", *shared))) as template:
        ingest = _step(
            image,
            "ingest",
            settings=("dataset-uri", "n-books", "seed", "fault"),
            files_out=("ratings",),
            outputs=("dataset_uri", "dataset_sha256"),
        )
        preprocess = _step(
            image,
            "preprocess",
            settings=("fault",),
            inline=("seed",),
            indexed=True,
            files_in=("ratings",),
            files_out=("train", "heldout"),
        )
        train = _step(
            image,
            "train",
            settings=("train-seconds", "fault"),
            inline=("seed", "k"),
            indexed=True,
            files_in=("train",),
            files_out=("model",),
            outputs=("model_uri", "model_sha256", "seed", "k", "index"),
        )
        evaluate = _step(
            image,
            "eval",
            settings=("min-score-gate", "fault"),
            inline=("k",),
            indexed=True,
            inputs=("model_sha256",),
            files_in=("model", "heldout"),
            files_out=("metrics",),
            outputs=("score", "passed"),
        )
        names = ("index", "seed", "k")
        here = {name: f"{{{{inputs.parameters.{name}}}}}" for name in names}
        shas = {"model_sha256": _output("train", "model_sha256")}
        with DAG(
            name="candidate",
            inputs=[*(Parameter(name=n) for n in (*names, "ratings_uri")), m.Artifact(name="ratings")],
            # An output of a DAG can only be an output of one of its tasks, not one of its inputs.
            outputs=[
                Parameter(name=n, value_from=m.ValueFrom(parameter=_output(task, n)))
                for task, left in (
                    ("train", (*names, "model_uri", "model_sha256")),
                    ("eval", ("score", "passed")),
                )
                for n in left
            ],
        ) as candidate:
            Task(
                name="preprocess",
                template=preprocess,
                arguments=[
                    Parameter(name="seed", value=here["seed"]),
                    Parameter(name="index", value=here["index"]),
                    Parameter(name="ratings_uri", value="{{inputs.parameters.ratings_uri}}"),
                    m.Artifact(name="ratings", from_="{{inputs.artifacts.ratings}}"),
                ],
            )
            _task("train", train, "preprocess.Succeeded", here, {"train": "preprocess"})
            _task(
                "eval",
                evaluate,
                "train.Succeeded",
                {"k": here["k"], "index": here["index"], **shas},
                {"model": "train", "heldout": "preprocess"},
            )
        select = _step(
            image,
            "select",
            settings=("fault",),
            inputs=("candidates",),
            outputs=("index", "score", "model_uri", "model_sha256", "seed", "k", "passed"),
        )
        register = _step(
            image,
            "register",
            settings=("dataset-uri", "n-books", "train-seconds", "min-score-gate", "model-name", "fault"),
            inline=("seed", "k"),
            inputs=("dataset_uri", "dataset_sha256", "model_uri", "model_sha256", "score", "passed"),
            outputs=("model_name", "model_version", "lineage_uri"),
        )
        with DAG(name="main"):
            _task("ingest", ingest)
            _task(
                "candidate",
                candidate,
                "ingest.Succeeded",
                {"index": "{{item.index}}", "seed": "{{item.seed}}", "k": "{{item.k}}"},
                {"ratings": "ingest"},
                with_items=[
                    {"index": str(i), **{key: str(value) for key, value in item.items()}}
                    for i, item in enumerate(SWEEP)
                ],
            )
            _task(
                "select",
                select,
                "candidate.Succeeded",
                {"candidates": "{{tasks.candidate.outputs.parameters}}"},
            )
            chosen = ("model_uri", "model_sha256", "score", "passed", "seed", "k")
            _task(
                "register",
                register,
                "select.Succeeded",
                {
                    "dataset_uri": _output("ingest", "dataset_uri"),
                    "dataset_sha256": _output("ingest", "dataset_sha256"),
                    **{name: _output("select", name) for name in chosen},
                },
                when=f"{_output('select', 'passed')} == true",
            )
    return template


def nightly() -> CronWorkflow:
    """The whole pipeline every night at 02:00 UTC; a run that is still going is replaced by the new one."""
    return CronWorkflow(
        name="recommender-nightly",
        namespace=PIPELINE_NAMESPACE,
        schedules=["0 2 * * *"],
        timezone="UTC",
        concurrency_policy="Replace",
        starting_deadline_seconds=600,
        successful_jobs_history_limit=3,
        failed_jobs_history_limit=3,
        workflow_template_ref=m.WorkflowTemplateRef(name="recommender-pipeline"),
        on_exit="outcome",
    )


def templates(image: str) -> list[dict[str, Any]]:
    """Every manifest the adapter keeps on the cluster, as plain documents."""
    built: list[Workflow] = [
        pipeline(image),
        pipeline(image, name="recommender-pipeline-volume", volume=True),
        pipeline(image, name="recommender-pipeline-approve", approve=True),
        pipeline(image, name="recommender-pipeline-shared", kind=ClusterWorkflowTemplate),
        fanout(image),
        sweep(image),
        nightly(),
    ]
    return [plain(workflow) for workflow in built]


def plain(workflow: Workflow) -> dict[str, Any]:
    """A hera object as the plain document that goes to the API server."""
    document: dict[str, Any] = json.loads(json.dumps(workflow.to_dict(), default=str))
    return document
