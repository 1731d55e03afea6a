"""Which operations of a document were never done in a run of schemathesis, by its report (NDJSON): one each line."""
import json
import sys

document, report = sys.argv[1:3]
with open(document) as file:
    paths = json.load(file)["paths"]
never = {f"{method.upper()} {path}" for path, item in paths.items() for method in item}
with open(report) as file:
    for line in file:
        recorder = json.loads(line).get("ScenarioFinished", {}).get("recorder", {})
        label, cases = recorder.get("label"), recorder.get("cases", {})
        for case, interaction in recorder.get("interactions", {}).items():
            method = cases.get(case, {}).get("value", {}).get("method")
            status = (interaction.get("response") or {}).get("status_code", 0)
            if label in never and method == label.split()[0] and 200 <= status < 300:
                never.remove(label)
print(*sorted(never), sep="\n")
