"""Tests of the Kubernetes objects that the chart renders for each of its features."""

import re
from collections.abc import Iterator

import pytest
import typer
import yaml
from helm_python import HelmRenderError, lint
from support.rendered import CHART, CI, Document, documents, feature, one, pods, render, validate, values_of

import retrain
from retrain.cli import app
from retrain.config.loading import parse_task
from retrain.config.resources import Resources

FEATURES = sorted(CI)
VALIDATED: set[str] = set()
SELECTING = {"Deployment", "PodDisruptionBudget", "Service"}


@pytest.mark.parametrize("name", FEATURES)
def test_chart_features_render_to_valid_kubernetes_objects(name: str) -> None:
    validate(feature(name), VALIDATED)


@pytest.mark.parametrize("name", FEATURES)
def test_chart_features_pass_helm_lint(name: str) -> None:
    report = lint(CHART, values_of(name), strict=True)
    assert report["total_charts_linted"] == 1
    assert report["errors"] == []
    # Severity 1 is information, for example that the chart could have an icon.
    assert [message for message in report["messages"] if message["severity"] > 1] == []


@pytest.mark.parametrize("name", FEATURES)
def test_every_pod_meets_the_restricted_pod_security_standard(name: str) -> None:
    for pod in pods(feature(name)):
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"].get("runAsUser", 65532) == 65532
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {"cpu", "memory"} <= container["resources"].get("requests", {}).keys() | {"cpu"}
            assert "memory" in container["resources"]["limits"]
            writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
            assert writable == {"/tmp", "/cache"}


@pytest.mark.parametrize("name", FEATURES)
def test_containers_call_existing_commands_and_options(name: str) -> None:
    group = typer.main.get_command(app)
    called = list(arguments(feature(name)))
    assert called
    for args in called:
        context = group.make_context("retrain", args[:1])
        command, subcommand, rest = group.resolve_command(context, args)
        assert subcommand is not None
        subcommand.make_context(command, rest, parent=context)


def arguments(found: list[Document]) -> Iterator[list[str]]:
    for pod in pods(found):
        yield from (list(container["args"]) for container in pod["spec"]["containers"] if "args" in container)


def test_namespace_override_moves_every_object() -> None:
    values = values_of("monitoring") | {"gc": {"enabled": True}, "namespaceOverride": "007"}
    values["kubeflow"] = {"namespace": "team"}
    found = documents(values, namespace="ml")
    elsewhere = {doc["metadata"]["name"] for doc in found if doc["metadata"]["namespace"] != "007"}
    assert len(found) > 15
    assert elsewhere == {"retrain-watcher"}, "its Role and RoleBinding are in the namespace of the runs"
    binding = one(found, "RoleBinding", "retrain-watcher")
    assert (binding["metadata"]["namespace"], binding["subjects"][0]["namespace"]) == ("team", "007")


def test_network_policy_of_gc_allows_no_ingress() -> None:
    found = documents(values_of("monitoring") | {"gc": {"enabled": True}})
    policy = one(found, "NetworkPolicy", "retrain-gc")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in policy
    (job,) = (pod for pod in pods(found) if pod["metadata"]["labels"]["app.kubernetes.io/component"] == "gc")
    assert policy["podSelector"]["matchLabels"].items() <= job["metadata"]["labels"].items()


@pytest.mark.parametrize("name", FEATURES)
def test_selectors_match_exactly_their_pods(name: str) -> None:
    found = feature(name)
    labels = [pod["metadata"]["labels"] for pod in pods(found)]
    for document in found:
        selector = document.get("spec", {}).get("selector", {}) if document["kind"] in SELECTING else {}
        selector = selector.get("matchLabels", selector)
        if selector:
            component = document["metadata"]["labels"]["app.kubernetes.io/component"]
            chosen = [each for each in labels if selector.items() <= each.items()]
            assert chosen
            assert {each["app.kubernetes.io/component"] for each in chosen} == {component}


def test_task_files_in_pods_are_equal_to_the_values() -> None:
    written = values_of("tasks")["tasks"]
    files = one(feature("tasks"), "ConfigMap", "retrain-tasks")["data"]
    assert sorted(files) == ["007.yaml", "flowers.yaml", "on.yaml"]
    for name, task in written.items():
        shared = {"name": name, "kubeflow": {"host": "http://ml-pipeline.kubeflow:8888"}}
        task = task | {"resources": {"image": f"retrain:{retrain.__version__}"} | task.get("resources", {})}
        assert parse_task(files[f"{name}.yaml"], name) == parse_task(yaml.safe_dump(shared | task), name)
    assert parse_task(files["flowers.yaml"], "").training.save_seconds == 1_000_000


def test_names_like_yaml_numbers_or_booleans_stay_strings() -> None:
    watcher = one(feature("tasks"), "Deployment", "retrain-watcher")
    (container,) = watcher["spec"]["template"]["spec"]["containers"]
    assert container["args"][:7] == ["watch", "--task", "007", "--task", "flowers", "--task", "on"]
    assert render({"tasks": {"on": {"store": "s3://bucket"}}})["tasks-configmap.yaml"].count("on.yaml: |") == 1
    found = documents(values_of("tasks") | {"nameOverride": "1e3"})
    assert {doc["metadata"]["labels"]["app.kubernetes.io/name"] for doc in found} == {"1e3"}


def test_only_a_changed_task_restarts_pods() -> None:
    def checksum(values: Document) -> str:
        template = one(documents(values), "Deployment", "retrain-watcher")["spec"]["template"]
        return str(template["metadata"]["annotations"]["checksum/tasks"])

    task = {"store": "s3://bucket"}
    assert checksum({"tasks": {"flowers": task}}) == checksum({"tasks": {"flowers": task}, "exporter": {"replicas": 2}})
    assert checksum({"tasks": {"flowers": task}}) != checksum({"tasks": {"flowers": task | {"seed": 1}}})


def test_only_submitting_pods_have_a_token_for_kubeflow() -> None:
    def audiences(spec: Document) -> list[str]:
        projected = [volume["projected"]["sources"] for volume in spec["volumes"] if "projected" in volume]
        return [source["serviceAccountToken"]["audience"] for sources in projected for source in sources]

    by_component = {pod["metadata"]["labels"]["app.kubernetes.io/component"]: pod for pod in pods(feature("default"))}
    found_by_component = {component: audiences(pod["spec"]) for component, pod in by_component.items()}
    assert found_by_component == {"watcher": ["pipelines.kubeflow.org"], "exporter": [], "test": []}
    assert [audiences(pod["spec"]) for pod in pods(feature("here"))] == [[], [], []]
    mounts = by_component["watcher"]["spec"]["containers"][0]["volumeMounts"]
    assert {"name": "kubeflow-token", "mountPath": "/var/run/secrets/kubeflow/pipelines", "readOnly": True} in mounts


def test_multi_user_watcher_may_only_submit_runs() -> None:
    found = feature("multi-user")
    roles = {doc["metadata"]["namespace"]: doc["rules"] for doc in found if doc["kind"] == "Role"}
    rule = {
        "apiGroups": ["pipelines.kubeflow.org"],
        "resources": ["experiments", "runs"],
        "verbs": ["get", "list", "create"],
    }
    assert roles == {"team": [rule], "team-birds": [rule]}
    bindings = [doc for doc in found if doc["kind"] == "RoleBinding"]
    assert {doc["metadata"]["namespace"] for doc in bindings} == set(roles)
    subject = {"kind": "ServiceAccount", "name": "retrain-watcher", "namespace": "ml"}
    assert [doc["subjects"] for doc in bindings] == [[subject], [subject]]


def test_single_user_kubeflow_needs_no_rights_in_the_cluster() -> None:
    assert {doc["kind"] for doc in feature("default")} & {"Role", "RoleBinding", "ClusterRole"} == set()


def test_network_policies_limit_readers_and_destinations() -> None:
    policy = one(feature("monitoring"), "NetworkPolicy", "retrain-exporter")["spec"]
    (rule,) = policy["ingress"]
    assert rule["ports"] == [{"port": "http"}]
    assert rule["from"][0] == {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    assert rule["from"][1]["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "test"
    assert len(rule["from"]) == 2
    own = one(feature("static-credentials"), "NetworkPolicy", "retrain-watcher")["spec"]
    assert own["ingress"][0]["from"][0] == {"namespaceSelector": {}}
    assert [port["port"] for rule in own["egress"] for port in rule["ports"]] == [53, 53, 443, 8888, 9000]


def test_network_policy_allows_dns_pods_on_other_ports() -> None:
    dns = one(feature("platform"), "NetworkPolicy", "retrain-watcher")["spec"]["egress"][0]
    assert dns == {"ports": [{"port": 5353, "protocol": "UDP"}, {"port": 5353, "protocol": "TCP"}]}


def test_credentials_and_registry_secrets_reach_every_container() -> None:
    for pod in pods(feature("static-credentials")):
        assert pod["spec"]["imagePullSecrets"] == [{"name": "registry"}]
        for container in pod["spec"]["containers"]:
            assert container["envFrom"] == [{"secretRef": {"name": "s3-credentials"}}]
            assert container["image"].startswith("registry.example/ml/retrain@sha256:9f86")


def test_cron_job_can_replace_the_watcher() -> None:
    found = feature("cronjob")
    assert [doc["metadata"]["name"] for doc in found if doc["kind"] == "Deployment"] == ["retrain-exporter"]
    job = one(found, "CronJob", "retrain-watch")["spec"]
    assert (job["schedule"], job["timeZone"], job["concurrencyPolicy"]) == ("15 3 * * *", "Europe/Brussels", "Forbid")
    (container,) = job["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert container["args"] == ["watch", "--task", "flowers", "--on", "kubeflow", "--once"]


def test_names_of_a_long_release_are_valid() -> None:
    longest = {"Service": 63, "CronJob": 52}
    values: Document = {"fullnameOverride": "x" * 63, "cronJob": {"enabled": True}, "gc": {"enabled": True}}
    found = documents(values_of("events") | values)
    lengths = {doc["metadata"]["name"]: len(doc["metadata"]["name"]) - longest.get(doc["kind"], 63) for doc in found}
    assert {name for name, excess in lengths.items() if excess > 0} == set()
    assert sum(doc["kind"] == "CronJob" for doc in found) == 2


def test_updated_watcher_stops_before_its_successor_starts() -> None:
    assert one(feature("default"), "Deployment", "retrain-watcher")["spec"]["strategy"] == {"type": "Recreate"}


def test_monitors_select_exporter_and_watcher() -> None:
    found = feature("monitoring")
    service = one(found, "Service", "retrain-exporter")
    monitor = one(found, "ServiceMonitor", "retrain-exporter")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["spec"]["endpoints"] == [{"port": service["spec"]["ports"][0]["name"], "interval": "15s"}]
    assert monitor["metadata"]["labels"]["release"] == "kube-prometheus-stack"
    watcher = one(found, "Deployment", "retrain-watcher")["spec"]["template"]
    pod_monitor = one(found, "PodMonitor", "retrain-watcher")["spec"]
    assert pod_monitor["selector"]["matchLabels"].items() <= watcher["metadata"]["labels"].items()
    (port,) = watcher["spec"]["containers"][0]["ports"]
    assert pod_monitor["podMetricsEndpoints"][0]["port"] == port["name"]


def test_training_pod_monitor_selects_the_pipelines_pods() -> None:
    from retrain.kubeflow import trainjob
    from retrain.kubeflow.pods import LABELS, METRICS_PORT

    monitor = one(feature("monitoring"), "PodMonitor", "retrain-training")["spec"]
    assert monitor["selector"]["matchLabels"] == LABELS
    keep, first, _, *addresses = monitor["podMetricsEndpoints"][0]["relabelings"]
    assert all(re.fullmatch(keep["regex"], container) for container in ("main", trainjob.NODE))
    assert first["sourceLabels"] == ["__meta_kubernetes_pod_label_batch_kubernetes_io_job_completion_index"]
    kept = {index for index in ("", "0", "1", "10") if re.fullmatch(first["regex"], index)}
    assert (kept, first["action"]) == ({"", "0"}, "keep"), "pods of pipelines, and rank 0 of a TrainJob"
    for ip, address in (("10.0.0.7", f"10.0.0.7:{METRICS_PORT}"), ("fd00::7", f"[fd00::7]:{METRICS_PORT}")):
        fitting = [rule["replacement"] for rule in addresses if re.fullmatch(rule["regex"], ip)]
        assert fitting[-1].replace("${1}", ip) == address


def linked(text: str) -> str:
    """Return a text of the chart with the address of the runbook that the values set."""
    assert "docs/operations.md" in text
    return text.replace("docs/operations.md", "https://wiki.example.com/retrain/operations")


def test_installed_alerts_and_dashboards_match_the_files() -> None:
    found = feature("monitoring")
    rules = one(found, "PrometheusRule", "retrain")["spec"]
    assert rules == yaml.safe_load(linked((CHART / "files" / "alerts.yaml").read_text()))
    assert rules["groups"][0]["rules"]
    dashboards = [doc for doc in found if doc["metadata"].get("labels", {}).get("grafana_dashboard") == "1"]
    files = {path.name: linked(path.read_text().strip()) for path in (CHART / "dashboards").glob("*.json")}
    assert {name: text.strip() for doc in dashboards for name, text in doc["data"].items()} == files
    assert {doc["metadata"]["annotations"]["grafana_folder"] for doc in dashboards} == {"Machine learning"}


def test_pod_placement_and_additions_come_from_the_values() -> None:
    watcher = one(feature("scheduling"), "Deployment", "classifier-watcher")["spec"]["template"]
    assert watcher["metadata"]["labels"]["cost-center"] == "42"
    assert watcher["spec"]["priorityClassName"] == "platform"
    assert watcher["spec"]["affinity"]["nodeAffinity"]
    (container,) = watcher["spec"]["containers"]
    assert {"name": "AWS_DEFAULT_REGION", "value": "eu-west-1"} in container["env"]
    assert {"name": "own-ca", "mountPath": "/etc/own-ca", "readOnly": True} in container["volumeMounts"]
    exporter = one(feature("scheduling"), "Deployment", "classifier-exporter")["spec"]["template"]
    assert exporter["spec"]["topologySpreadConstraints"][0]["maxSkew"] == 1
    assert "priorityClassName" not in exporter["spec"]


def test_platform_values_reach_pods_and_tasks() -> None:
    found = feature("platform")
    for name, grace in (("watcher", 600), ("exporter", 30)):
        spec = one(found, "Deployment", f"retrain-{name}")["spec"]["template"]["spec"]
        assert spec["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
        assert spec["terminationGracePeriodSeconds"] == grace
        (container,) = spec["containers"]
        assert container["image"] == f"mirror.example.com/ml/retrain:{retrain.__version__}-slim"
        assert {"name": "RETRAIN_LOG_FORMAT", "value": "json"} in container["env"]
        assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "http"}
        assert container["livenessProbe"].get("periodSeconds") == (60 if name == "watcher" else None)
    files = one(found, "ConfigMap", "retrain-tasks")["data"]
    images = {name: parse_task(files[f"{name}.yaml"], name).resources.image for name in ("birds", "flowers")}
    assert images == {
        "birds": "registry.example.com/own/retrain:dev",
        "flowers": container["image"].removesuffix("-slim"),
    }
    assert one(found, "ConfigMap", "retrain-extra")["data"] == {"namespace": "ml"}


def test_ingress_and_gateway_lead_to_the_exporters_pages() -> None:
    found = feature("platform")
    service = one(found, "Service", "retrain-exporter")
    ingress = one(found, "Ingress", "retrain-exporter")["spec"]
    (rule,) = ingress["rules"]
    backend = rule["http"]["paths"][0]["backend"]["service"]
    assert (backend["name"], backend["port"]["name"]) == ("retrain-exporter", service["spec"]["ports"][0]["name"])
    assert ingress["tls"] == [{"hosts": ["retrain.example.com"], "secretName": "retrain-tls"}]
    route = one(found, "HTTPRoute", "retrain-exporter")["spec"]
    assert route["rules"] == [{"backendRefs": [{"name": "retrain-exporter", "port": 9109}]}]
    endpoint = one(found, "ServiceMonitor", "retrain-exporter")["spec"]["endpoints"][0]
    assert endpoint["relabelings"] == [{"targetLabel": "cluster", "replacement": "ml-1"}]


def test_gateway_route_without_a_gateway_is_refused() -> None:
    with pytest.raises(HelmRenderError, match=r"exporter\.httpRoute\.parentRefs: name the Gateway"):
        documents(values_of("default") | {"exporter": {"httpRoute": {"enabled": True}}})


def test_equal_labels_of_several_values_occur_once() -> None:
    """Kustomize and Argo CD refuse an object with the same key twice."""
    labels = {"commonLabels": {"team": "vision", "app.kubernetes.io/version": "9"}}
    values = values_of("default") | labels | {"watcher": {"podLabels": {"team": "birds"}}}
    for path, text in render(values).items():
        for block in re.findall(r"^ *labels:\n((?: +[\w./-]+: .*\n)+)", text, re.MULTILINE):
            keys = re.findall(r"^ +([\w./-]+):", block, re.MULTILINE)
            assert len(keys) == len(set(keys)), path
    deployment = one(documents(values), "Deployment", "retrain-watcher")
    assert deployment["metadata"]["labels"]["team"] == "vision"
    assert deployment["metadata"]["labels"]["app.kubernetes.io/version"] == retrain.__version__
    assert deployment["spec"]["template"]["metadata"]["labels"]["team"] == "birds"


@pytest.mark.parametrize("name", ["retrain-watcher", "retrain-training"])
def test_pod_monitors_add_relabelings_of_the_values(name: str) -> None:
    (endpoint,) = one(feature("platform"), "PodMonitor", name)["spec"]["podMetricsEndpoints"]
    assert endpoint["relabelings"][-1] == {"targetLabel": "cluster", "replacement": "ml-1"}
    assert endpoint["metricRelabelings"] == [{"sourceLabels": ["__name__"], "regex": "process_.*", "action": "drop"}]
    (usual,) = one(feature("monitoring"), "PodMonitor", name)["spec"]["podMetricsEndpoints"]
    assert endpoint["relabelings"][:-1] == usual.get("relabelings", []), "the chart's own rules come first"


def test_pushed_events_reach_the_watcher_with_a_token() -> None:
    found = feature("events")
    deployment = one(found, "Deployment", "retrain-watcher")["spec"]["template"]
    (container,) = deployment["spec"]["containers"]
    reference = {"secretKeyRef": {"name": "retrain-events", "key": "token"}}
    assert {"name": "RETRAIN_EVENTS_TOKEN", "valueFrom": reference} in container["env"]
    service = one(found, "Service", "retrain-watcher")["spec"]
    assert service["selector"].items() <= deployment["metadata"]["labels"].items()
    assert service["ports"][0]["targetPort"] == container["ports"][0]["name"]
    assert service["publishNotReadyAddresses"], "a task with a problem must not stop the events of other tasks"
    (exporter,) = one(found, "Deployment", "retrain-exporter")["spec"]["template"]["spec"]["containers"]
    assert "RETRAIN_EVENTS_TOKEN" not in str(exporter["env"])


@pytest.mark.parametrize("name", FEATURES)
def test_chart_notes_give_the_next_command(name: str) -> None:
    notes = render(values_of(name))["NOTES.txt"]
    assert "helm test retrain --namespace ml" in notes
    assert "<no value>" not in notes


@pytest.mark.parametrize(
    ("values", "polled", "idle"),
    [
        ({}, True, False),
        ({"watcher": {"queueUrl": "https://sqs.eu-west-1.amazonaws.com/1/drops"}}, False, False),
        ({"watcher": {"events": {"tokenSecret": "events"}}}, False, False),
        ({"watcher": {"enabled": False}, "cronJob": {"enabled": True}}, False, False),
        ({"watcher": {"enabled": False}}, False, True),
    ],
)
def test_chart_notes_name_the_trigger_of_runs(values: Document, polled: bool, idle: bool) -> None:
    base: Document = {"tasks": {"flowers": {"store": "s3://retrain-example/models"}}}
    notes = render(base | values)["NOTES.txt"]
    assert ("polled every 300 seconds" in notes, "nothing in this release starts runs" in notes) == (polled, idle)


def test_chart_image_and_package_have_the_same_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == retrain.__version__
    assert feature("default")
    assert f"{Resources().image}-slim" == pods(feature("default"))[0]["spec"]["containers"][0]["image"]


@pytest.mark.parametrize(
    ("values", "watcher", "exporter"),
    [
        ({}, "retrain:1-slim", "retrain:1-slim"),
        ({"watcher": {"executor": "here"}}, "retrain:1", "retrain:1-slim"),
        ({"image": {"slimSuffix": ""}}, "retrain:1", "retrain:1"),
        ({"image": {"digest": f"sha256:{'9' * 64}"}}, f"retrain@sha256:{'9' * 64}", f"retrain@sha256:{'9' * 64}"),
        ({"watcher": {"image": {"repository": "own/retrain", "tag": "2"}}}, "own/retrain:2", "retrain:1-slim"),
        ({"image": {"digest": f"sha256:{'9' * 64}"}, "exporter": {"image": {"tag": "2"}}}, None, "retrain:2"),
    ],
)
def test_only_a_component_that_trains_has_torch(values: Document, watcher: str | None, exporter: str) -> None:
    base: Document = {"tasks": {"flowers": {"store": "s3://retrain-example/models"}}}
    found = documents(base | values | {"image": {"tag": "1"} | values.get("image", {})})
    for name, image in (("watcher", watcher), ("exporter", exporter)):
        (container,) = one(found, "Deployment", f"retrain-{name}")["spec"]["template"]["spec"]["containers"]
        assert image in (None, container["image"])
