{{/* All task files by name: each task merged over the release's settings for all tasks. */}}
{{- define "retrain.tasks" -}}
{{- $kubeflow := .Values.kubeflow -}}
{{- range $name, $task := .Values.tasks }}
{{- $shared := dict "host" $kubeflow.host }}
{{- with $kubeflow.namespace }}{{ $_ := set $shared "namespace" . }}{{ end }}
{{ quote $name }}: {{ mergeOverwrite (dict "name" $name "kubeflow" $shared "resources" (dict "image" (include "retrain.image" $))) $task | toJson }}
{{- end }}
{{- end }}

{{/* An argument --task for each task. */}}
{{- define "retrain.taskArguments" -}}
{{- range $name := keys .Values.tasks | sortAlpha }}
- --task
- {{ quote $name }}
{{- end }}
{{- end }}

{{/* Fails at install time with the errors that the watcher would raise at its start. */}}
{{- define "retrain.watchArguments" -}}
{{- range $name, $task := include "retrain.tasks" . | fromYaml }}
{{- if and (eq $.Values.watcher.executor "kubeflow") (gt (int (dig "resources" "nodes" 1 $task)) 1) }}
{{- fail (printf "tasks.%s.resources.nodes: a pipeline trains on one node; use `retrain pipeline trainjob` to train on several" $name) }}
{{- end }}
{{- end -}}
{{- if and .Values.watcher.queueUrl .Values.watcher.events.tokenSecret }}
{{- fail "watcher.queueUrl and watcher.events.tokenSecret cannot be combined: set one of them" }}
{{- end -}}
- watch
{{- include "retrain.taskArguments" . }}
- --on
- {{ .Values.watcher.executor }}
{{- with .Values.watcher.queueUrl }}
- --queue-url
- {{ . | quote }}
{{- end }}
{{- end }}
