{{- define "retrain.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 53 | trimSuffix "-" }}
{{- end }}

{{/* Does not repeat the chart's name if the release's name contains it. Leaves room for the components' names. */}}
{{- define "retrain.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 53 | trimSuffix "-" }}
{{- else if contains (include "retrain.name" .) .Release.Name }}
{{- .Release.Name | trunc 53 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "retrain.name" .) | trunc 53 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* Kubernetes accepts at most 52 characters in the name of a CronJob. Argument: a list of the root and a suffix. */}}
{{- define "retrain.cronJobName" -}}
{{- $room := sub 51 (len (index . 1)) | int -}}
{{ include "retrain.fullname" (index . 0) | trunc $room | trimSuffix "-" }}-{{ index . 1 }}
{{- end }}

{{- define "retrain.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride }}
{{- end }}

{{- define "retrain.labels" -}}
{{- $own := include "retrain.ownLabels" . -}}
{{- include "retrain.addedLabels" (list .Values.commonLabels $own) }}
{{ $own }}
{{- end }}

{{/* Labels of the values without those that the chart sets itself: many tools refuse a YAML key that occurs twice.
     Argument: a list of the labels, and of the chart's own labels (YAML). */}}
{{- define "retrain.addedLabels" -}}
{{- $own := index . 1 | fromYaml -}}
{{- range $name, $value := index . 0 }}
{{- if not (hasKey $own $name) }}
{{ $name }}: {{ quote $value }}
{{- end }}
{{- end }}
{{- end }}

{{- define "retrain.ownLabels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/name: {{ include "retrain.name" . | quote }}
app.kubernetes.io/instance: {{ quote .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/* Argument: a list of the root and a component. */}}
{{- define "retrain.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "retrain.name" $root | quote }}
app.kubernetes.io/instance: {{ quote $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* Argument: a list of the root and a component. */}}
{{- define "retrain.serviceAccount" -}}
{{- $root := index . 0 -}}
{{- $account := (index $root.Values (index . 1)).serviceAccount -}}
{{- if $account.create }}
{{- default (printf "%s-%s" (include "retrain.fullname" $root) (index . 1)) $account.name }}
{{- else }}
{{- default "default" $account.name }}
{{- end }}
{{- end }}

{{- define "retrain.image" -}}
{{- include "retrain.imageAddress" (list . .Values.image "") }}
{{- end }}

{{/* Argument: a list of the root, an image, and the suffix of its tag. */}}
{{- define "retrain.imageAddress" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- with (dig "imageRegistry" "" ($root.Values.global | default dict)) | default $image.registry }}{{ . }}/{{ end -}}
{{ $image.repository }}{{ if $image.digest }}@{{ $image.digest }}{{ else }}:{{ default $root.Chart.AppVersion $image.tag }}{{ index . 2 }}{{ end }}
{{- end }}

{{/* The image of a component. It has torch only if the component trains. Argument: a dict of root and component. */}}
{{- define "retrain.componentImage" -}}
{{- $own := (index .root.Values .component).image -}}
{{- $trains := and (eq .component "watcher") (eq .root.Values.watcher.executor "here") -}}
{{- $suffix := ternary "" .root.Values.image.slimSuffix (or $trains (hasKey $own "tag")) -}}
{{- $shared := ternary (omit .root.Values.image "digest") .root.Values.image (hasKey $own "tag") -}}
{{- include "retrain.imageAddress" (list .root (merge (deepCopy $own) $shared) $suffix) }}
{{- end }}

{{/* A file of rules or dashboards, with links to the runbook's URL. */}}
{{- define "retrain.linked" -}}
{{- $home := index . 0 -}}
{{- toString (index . 1) | replace "docs/operations.md" ($home.Values.monitoring.runbook | default "docs/operations.md") -}}
{{- end }}
