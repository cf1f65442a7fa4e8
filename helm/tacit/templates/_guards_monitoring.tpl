{{/* (list root component labels): metadata of an object that a monitoring stack finds by its own labels */}}
{{- define "tacit.monitored" -}}
{{- $root := index . 0 -}}
name: {{ include "tacit.name" (list $root (index . 1)) }}
namespace: {{ $root.Release.Namespace }}
labels:
  {{- include "tacit.labels" (list $root "server") | nindent 2 }}
  {{- with index . 2 }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with $root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The operator section of server.config as JSON; "" where there is none */}}
{{- define "tacit.operator" -}}
{{- if include "tacit.hasServer" . -}}
{{- with (include "tacit.serverConfig" . | fromJson).operator }}{{ toJson . }}{{ end -}}
{{- end -}}
{{- end -}}

{{/* The port of the OTLP collector in server.config; "" where nothing is pushed */}}
{{- define "tacit.collectorPort" -}}
{{- if include "tacit.hasServer" . -}}
{{- with (include "tacit.serverConfig" . | fromJson).telemetry -}}
{{- with .otlp -}}
{{- default "443" (trimPrefix ":" (regexFind ":[0-9]+$" .url)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* How the server logs in at its collector: the files that server.config names are those of the Secret */}}
{{- define "tacit.collectorLoginGuard" -}}
{{- $secret := .Values.monitoring.collectorSecret -}}
{{- $files := list -}}
{{- if include "tacit.collectorPort" . -}}
{{- with (include "tacit.serverConfig" . | fromJson).telemetry.otlp -}}
{{- $files = compact (list .token .certificate) -}}
{{- end -}}
{{- end -}}
{{- range $files -}}
{{- if or (not $secret) (not (regexMatch "^/etc/tacit/collector/[^/]+$" .)) -}}
{{- fail (printf "VALIDATION_ERROR kind=collector_login: telemetry.otlp logs in by %s; name /etc/tacit/collector/KEY, a key of the Secret monitoring.collectorSecret" .) -}}
{{- end -}}
{{- end -}}
{{- if and $secret (not $files) -}}
{{- fail "VALIDATION_ERROR kind=collector_login: monitoring.collectorSecret is set and telemetry.otlp names neither token nor certificate; remove one" -}}
{{- end -}}
{{- end -}}

{{/* Who reads numbers, and where they are pushed, against server.config */}}
{{- define "tacit.monitoringGuards" -}}
{{- $policy := .Values.networkPolicy -}}
{{- $operator := include "tacit.operator" . -}}
{{- if $operator -}}
{{- $listen := (include "tacit.serverConfig" . | fromJson).listen -}}
{{- with fromJson $operator -}}
{{- if or (ne .host $listen.host) (lt (int .port) 1024) (eq (int .port) (int $listen.port)) -}}
{{- fail (printf "VALIDATION_ERROR kind=operator: operator is on %s port %d; choose %s and another port from 1024" .host (int .port) $listen.host) -}}
{{- end -}}
{{- end -}}
{{- else if $policy.operators -}}
{{- fail "VALIDATION_ERROR kind=operator: networkPolicy.operators is set and server.config has no operator section; remove one" -}}
{{- end -}}
{{- if include "tacit.collectorPort" . -}}
{{- if and $policy.enabled (not $policy.collectors) -}}
{{- fail "VALIDATION_ERROR kind=collector_peers: server.config pushes telemetry and nothing may be reached; name the collector in networkPolicy.collectors" -}}
{{- end -}}
{{- else if $policy.collectors -}}
{{- fail "VALIDATION_ERROR kind=collector_peers: networkPolicy.collectors is set and server.config pushes nothing; remove one" -}}
{{- end -}}
{{- include "tacit.collectorLoginGuard" . -}}
{{- if .Values.monitoring.clientSecret -}}
{{- if not $operator -}}
{{- fail "VALIDATION_ERROR kind=monitor: monitoring.clientSecret is set and this release has no operator listener; add the operator section to server.config" -}}
{{- end -}}
{{- if ne (fromJson $operator).login.kind "mtls" -}}
{{- fail "VALIDATION_ERROR kind=monitor: operators log in by token, which a scraper would give to whoever answers; use login kind mtls" -}}
{{- end -}}
{{- if and $policy.enabled (not $policy.operators) -}}
{{- fail "VALIDATION_ERROR kind=monitor: nobody may reach the operator listener; name the scraper in networkPolicy.operators" -}}
{{- end -}}
{{- end -}}
{{- end -}}
