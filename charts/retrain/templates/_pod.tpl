{{/* The common parts of all components' pods. Argument: a dict of root and component; token, if the pod calls Kubeflow
     Pipelines; args of the container; ports and probes, if it serves (YAML); resources, if they differ from the
     component's. */}}

{{- define "retrain.podMetadata" -}}
{{- $of := index .root.Values .component -}}
{{- $selector := include "retrain.selector" (list .root .component) -}}
{{- $added := list (merge (deepCopy $of.podLabels) .root.Values.commonLabels) $selector -}}
labels:
  {{- printf "%s\n%s" (include "retrain.addedLabels" $added) $selector | trim | nindent 2 }}
annotations:
  # Pods read task files only when they start. If a task file changes, this checksum restarts the pods.
  checksum/tasks: {{ include "retrain.tasks" .root | sha256sum }}
  {{- with $of.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{- define "retrain.podSpec" -}}
{{- $of := index .root.Values .component -}}
serviceAccountName: {{ include "retrain.serviceAccount" (list .root .component) | quote }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- toYaml .root.Values.podSecurityContext | nindent 2 }}
terminationGracePeriodSeconds: {{ $of.terminationGracePeriodSeconds }}
{{- range $field := list "nodeSelector" "tolerations" "affinity" "topologySpreadConstraints" "priorityClassName" }}
{{- with index $of $field }}
{{ $field }}: {{ toJson . }}
{{- end }}
{{- end }}
volumes:
  - name: tasks
    configMap:
      name: {{ include "retrain.fullname" .root }}-tasks
  - name: tmp
    emptyDir:
      sizeLimit: {{ $of.cacheSize }}
  - name: cache
    emptyDir:
      sizeLimit: {{ $of.cacheSize }}
  {{- if .token }}
  - name: kubeflow-token
    projected:
      sources:
        - serviceAccountToken:
            audience: pipelines.kubeflow.org
            expirationSeconds: 7200
            path: token
  {{- end }}
  {{- with $of.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{- define "retrain.container" -}}
{{- $of := index .root.Values .component -}}
image: {{ include "retrain.componentImage" . | quote }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
{{- with .command }}
command: {{ toJson . }}
{{- end }}
{{- with .args }}
args:
  {{- trim . | nindent 2 }}
{{- end }}
env:
  - name: RETRAIN_TASKS
    value: /etc/retrain/tasks
  - name: RETRAIN_CACHE
    value: /cache
  {{- if ne .root.Values.logFormat "text" }}
  - name: RETRAIN_LOG_FORMAT
    value: {{ .root.Values.logFormat }}
  {{- end }}
  {{- with dig "events" "tokenSecret" "" $of }}
  - name: RETRAIN_EVENTS_TOKEN
    valueFrom:
      secretKeyRef: {name: {{ quote . }}, key: token}
  {{- end }}
  {{- with $of.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .root.Values.credentialsSecret }}
envFrom:
  - secretRef:
      name: {{ quote . }}
{{- end }}
{{- with .ports }}
ports:
  {{- trim . | nindent 2 }}
{{- end }}
{{- with .probes }}
{{ mergeOverwrite (fromYaml .) $of.probes | toYaml }}
{{- end }}
resources:
  {{- toYaml (default $of.resources .resources) | nindent 2 }}
securityContext:
  {{- toYaml .root.Values.securityContext | nindent 2 }}
volumeMounts:
  - name: tasks
    mountPath: /etc/retrain/tasks
    readOnly: true
  - name: tmp
    mountPath: /tmp
  - name: cache
    mountPath: /cache
  {{- if .token }}
  - name: kubeflow-token
    mountPath: /var/run/secrets/kubeflow/pipelines
    readOnly: true
  {{- end }}
  {{- with $of.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
