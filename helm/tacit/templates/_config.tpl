{{/* What the chart reads from the configurations. Each yields JSON or a number; nothing is written back. */}}
{{- define "tacit.serverConfig" -}}
{{- fromYaml .Values.server.config | toJson -}}
{{- end -}}

{{- define "tacit.brokerConfig" -}}
{{- fromYaml .Values.broker.config | toJson -}}
{{- end -}}

{{/* Whether this release has server pods: "true" or "" */}}
{{- define "tacit.hasServer" -}}
{{- if and .Values.server.enabled (ne .Values.tee.mode "external") }}true{{ end -}}
{{- end -}}

{{/* Whether the guest is real hardware: its pods are root inside their own TDX guest. */}}
{{- define "tacit.hardware" -}}
{{- if has .Values.tee.mode (list "nodeCvm" "kata") }}true{{ end -}}
{{- end -}}

{{/* Seconds from the start of `tacit serve` to its port: the broker, then one engine after another. */}}
{{- define "tacit.startSeconds" -}}
{{- $config := include "tacit.serverConfig" . | fromJson -}}
{{- $sum := addf $config.broker.retry_seconds .Values.server.probes.startupExtraSeconds -}}
{{- range $config.models }}{{ $sum = addf $sum .engine.start_seconds }}{{ end -}}
{{- int $sum -}}
{{- end -}}

{{/*
Seconds from deletion to the last byte: preStop, one second of notice, the drain, then for each engine what
vLLM's --shutdown-timeout (30 s) and its exit (10 s) may take, and five to spare.
*/}}
{{- define "tacit.graceSeconds" -}}
{{- $config := include "tacit.serverConfig" . | fromJson -}}
{{- add .Values.server.preStopSeconds 1 (int $config.limits.drain_seconds) (mul 40 (len $config.models)) 5 -}}
{{- end -}}

{{- define "tacit.serverConfigName" -}}
{{- $content := dict "config" .Values.server.config "trust" .Values.server.trustFiles | toJson -}}
{{ include "tacit.name" (list . "server") }}-{{ sha256sum $content | trunc 10 }}
{{- end -}}

{{- define "tacit.brokerConfigName" -}}
{{- $content := dict "config" .Values.broker.config "files" .Values.broker.files | toJson -}}
{{ include "tacit.name" (list . "broker") }}-{{ sha256sum $content | trunc 10 }}
{{- end -}}

{{/* "true" where the broker's store is a SQLite file */}}
{{- define "tacit.brokerSqlite" -}}
{{- $config := include "tacit.brokerConfig" . | fromJson -}}
{{- if hasPrefix "sqlite:" (default "" $config.store) }}true{{ end -}}
{{- end -}}

{{- define "tacit.brokerClaim" -}}
{{- default (include "tacit.name" (list . "broker")) .Values.broker.persistence.existingClaim -}}
{{- end -}}

{{/*
(list endorsements): the port of a PCCS where collateral is asked for and not read from files; "" otherwise
*/}}
{{- define "tacit.pccsPort" -}}
{{- $source := index . 0 -}}
{{- if kindIs "map" $source -}}
{{- $port := regexFind ":[0-9]+$" (urlParse $source.pccs).host -}}
{{- default "443" (trimPrefix ":" $port) -}}
{{- end -}}
{{- end -}}

{{- define "tacit.serverPccsPort" -}}
{{- include "tacit.pccsPort" (list (include "tacit.serverConfig" . | fromJson).attestation.endorsements) -}}
{{- end -}}

{{- define "tacit.brokerPccsPort" -}}
{{- include "tacit.pccsPort" (list (include "tacit.brokerConfig" . | fromJson).endorsements) -}}
{{- end -}}

{{/* The port in the broker's URL of server.config */}}
{{- define "tacit.brokerUrlPort" -}}
{{- $config := include "tacit.serverConfig" . | fromJson -}}
{{- $port := regexFind ":[0-9]+$" $config.broker.url -}}
{{- default "443" (trimPrefix ":" $port) -}}
{{- end -}}
