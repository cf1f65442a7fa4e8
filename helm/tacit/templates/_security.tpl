{{/*
Security contexts. Pod Security "restricted" everywhere but in a server on hardware: a TDX guest's quote and
register files belong to root, and the engine's own network, process and mount namespaces need exactly the
three capabilities below. That root is root inside the confidential VM only.
*/}}
{{- define "tacit.restrictedPod" -}}
runAsNonRoot: true
runAsUser: {{ .Values.podSecurity.runAsUser }}
runAsGroup: {{ .Values.podSecurity.runAsGroup }}
fsGroup: {{ .Values.podSecurity.fsGroup }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "tacit.restrictedContainer" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* Only fields that genpolicy knows, so that the agent policy can be generated from the render. */}}
{{- define "tacit.hardwarePod" -}}
runAsUser: 0
runAsGroup: 0
fsGroup: {{ .Values.podSecurity.fsGroup }}
{{- if eq .Values.tee.mode "nodeCvm" }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}
{{- end -}}

{{- define "tacit.hardwareContainer" -}}
runAsUser: 0
runAsGroup: 0
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
  add: [SYS_ADMIN, NET_ADMIN, SETPCAP]
{{- if eq .Values.tee.mode "kata" }}
seccompProfile:
  type: RuntimeDefault  # here and not at the pod, where genpolicy does not know it
{{- end }}
{{- if eq .Values.tee.mode "nodeCvm" }}
appArmorProfile:
  type: Unconfined  # the default profile denies mount(2), and with it the engine's isolation
{{- end }}
{{- end -}}

{{/* (list root component): replicas over zones and nodes, as far as possible */}}
{{- define "tacit.spread" -}}
topologySpreadConstraints:
{{- range (list "topology.kubernetes.io/zone" "kubernetes.io/hostname") }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "tacit.selector" $ | nindent 8 }}
{{- end }}
{{- end -}}
