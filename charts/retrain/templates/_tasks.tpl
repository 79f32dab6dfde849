{{/* All task files, by name: each task over what the release gives to all of them. */}}
{{- define "retrain.tasks" -}}
{{- $kubeflow := .Values.kubeflow -}}
{{- range $name, $task := .Values.tasks }}
{{- $shared := dict "host" $kubeflow.host }}
{{- with $kubeflow.namespace }}{{ $_ := set $shared "namespace" . }}{{ end }}
{{ quote $name }}: {{ mergeOverwrite (dict "name" $name "kubeflow" $shared) $task | toJson }}
{{- end }}
{{- end }}

{{/* --task once for each task. */}}
{{- define "retrain.taskArguments" -}}
{{- range $name := keys .Values.tasks | sortAlpha }}
- --task
- {{ quote $name }}
{{- end }}
{{- end }}

{{- define "retrain.watchArguments" -}}
- watch
{{- include "retrain.taskArguments" . }}
- --on
- {{ .Values.watcher.on }}
{{- with .Values.watcher.queueUrl }}
- --queue-url
- {{ . | quote }}
{{- end }}
{{- end }}
