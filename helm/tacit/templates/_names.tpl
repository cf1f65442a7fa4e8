{{/* Names and labels. A component is `server`, `broker` or `verify`. */}}
{{- define "tacit.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $own := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $own .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* (list root component) */}}
{{- define "tacit.name" -}}
{{- printf "%s-%s" (include "tacit.fullname" (index . 0)) (index . 1) -}}
{{- end -}}

{{/* What a selector may hold: nothing here changes in the life of a release. */}}
{{- define "tacit.selector" -}}
app.kubernetes.io/name: tacit
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* (list root component): labels of a pod. No chart version: a guest is not replaced because the chart was. */}}
{{- define "tacit.podLabels" -}}
{{ include "tacit.selector" . }}
tee: {{ (index . 0).Values.tee.mode }}
{{- with (index . 0).Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "tacit.labels" -}}
{{- $root := index . 0 -}}
{{ include "tacit.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version }}
tee: {{ $root.Values.tee.mode }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* (list root component suffix [annotations]): the metadata of one object */}}
{{- define "tacit.metadata" -}}
{{- $root := index . 0 -}}
{{- $suffix := index . 2 -}}
{{- $annotations := merge (dict) (gt (len .) 3 | ternary (last .) (dict)) $root.Values.commonAnnotations -}}
name: {{ include "tacit.name" (list $root (index . 1)) }}{{ $suffix }}
namespace: {{ $root.Release.Namespace }}
labels:
  {{- include "tacit.labels" (list $root (index . 1)) | nindent 2 }}
{{- with $annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* (list root image): a reference by digest, or by tag in mode simulated */}}
{{- define "tacit.image" -}}
{{- $image := index . 1 -}}
{{- $registry := default $image.registry (index . 0).Values.global.imageRegistry -}}
{{- if $registry }}{{ $registry }}/{{ end }}{{ $image.repository }}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $image.tag }}{{ end }}
{{- end -}}

{{/*
(list root part python): what the operator gave of collateral, NVIDIA's too, goes into the cache of a PCCS
*/}}
{{- define "tacit.collateralCache" -}}
{{- $root := index . 0 -}}
{{- $part := get $root.Values (index . 1) -}}
- name: collateral-cache
  image: {{ include "tacit.image" (list $root $part.image) }}
  imagePullPolicy: {{ $part.image.pullPolicy }}
  command:
    - {{ $part.python }}
    - -c
    - |
      import pathlib, shutil
      for file in pathlib.Path("/etc/tacit/endorsements").iterdir():
          if file.suffix == ".json" and file.is_file():
              shutil.copyfile(file, pathlib.Path("/var/cache/tacit") / file.name)
  resources:
    {{- include "tacit.resources" (dict "cpu" "100m" "memory" "64Mi") | nindent 4 }}
  securityContext:
    {{- if and (eq (index . 1) "server") (include "tacit.hardware" $root) }}
    {{- include "tacit.hardwareContainer" $root | nindent 4 }}
    {{- else }}
    {{- include "tacit.restrictedContainer" $root | nindent 4 }}
    {{- end }}
  terminationMessagePolicy: File
  volumeMounts:
    - {name: endorsements, mountPath: /etc/tacit/endorsements, readOnly: true}
    - {name: collateral-cache, mountPath: /var/cache/tacit}
{{- end -}}

{{- define "tacit.scaleDown" -}}
scaleDown:  # a replica takes minutes to load its model
  stabilizationWindowSeconds: 900
  policies:
    - {type: Pods, value: 1, periodSeconds: 300}
{{- end -}}

{{- define "tacit.pullSecrets" -}}
{{- with .Values.global.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* Limits equal requests: the pod gets what it was sized for, in mode kata as a VM of that size. */}}
{{- define "tacit.resources" -}}
requests:
  cpu: {{ .cpu | quote }}
  memory: {{ .memory | quote }}
limits:
  cpu: {{ .cpu | quote }}
  memory: {{ .memory | quote }}
{{- end -}}
