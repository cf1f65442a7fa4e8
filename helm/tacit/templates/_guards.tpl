{{/*
What a schema cannot say: values against the configurations and against each other. Each message is
a slug for tests, what is wrong, and what to do. Every template begins with this: a configuration that is not
one must be refused before it is read.
*/}}
{{- define "tacit.guards" -}}
{{- $mode := .Values.tee.mode -}}
{{- if not $mode -}}
{{- fail "VALIDATION_ERROR kind=tee_mode: tee.mode is not set and nothing is assumed; set simulated, external, nodeCvm or kata" -}}
{{- end -}}
{{- if and (eq $mode "simulated") (not .Values.tee.simulated.acknowledgeInsecure) -}}
{{- fail "VALIDATION_ERROR kind=simulated_acknowledge: mode simulated keeps nothing confidential; set tee.simulated.acknowledgeInsecure to true where that is understood" -}}
{{- end -}}
{{- if and (ne $mode "simulated") (or .Values.tee.simulated.acknowledgeInsecure .Values.tee.simulated.existingSecret) -}}
{{- fail (printf "VALIDATION_ERROR kind=simulated_elsewhere: tee.simulated is set in mode %s; remove it" $mode) -}}
{{- end -}}
{{- if not (or .Values.server.enabled .Values.broker.enabled) -}}
{{- fail "VALIDATION_ERROR kind=nothing: server and broker are both disabled; enable one" -}}
{{- end -}}
{{- if contains "vllm" (include "tacit.fullname" .) -}}
{{- fail "VALIDATION_ERROR kind=release_name: a Service named vllm* sets VLLM_* variables in every pod beside it; choose another release name" -}}
{{- end -}}
{{- if include "tacit.hasServer" . -}}{{- include "tacit.serverGuards" . -}}{{- end -}}
{{- if .Values.broker.enabled -}}{{- include "tacit.brokerGuards" . -}}{{- end -}}
{{- include "tacit.modeGuards" . -}}
{{- include "tacit.networkGuards" . -}}
{{- include "tacit.monitoringGuards" . -}}
{{- range .Values.extraObjects -}}
{{- if eq .kind "Secret" -}}
{{- fail "VALIDATION_ERROR kind=secret_values: extraObjects holds a Secret; values are stored in the release, so make Secrets elsewhere and name them" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "tacit.modeGuards" -}}
{{- $mode := .Values.tee.mode -}}
{{- if and (eq $mode "external") .Values.server.enabled -}}
{{- if not .Values.tee.external.addresses -}}
{{- fail "VALIDATION_ERROR kind=external_addresses: tee.external.addresses is empty; list the VMs that run `tacit serve`" -}}
{{- end -}}
{{- range .Values.tee.external.addresses -}}
{{- if ne (contains ":" .) (contains ":" (first $.Values.tee.external.addresses)) -}}
{{- fail "VALIDATION_ERROR kind=external_families: tee.external.addresses mixes IPv4 and IPv6; an EndpointSlice holds one of them" -}}
{{- end -}}
{{- end -}}
{{- if or .Values.server.config .Values.models -}}
{{- fail "VALIDATION_ERROR kind=external_config: in mode external the VM holds its own configuration; remove server.config and models" -}}
{{- end -}}
{{- if .Values.server.autoscaling.enabled -}}
{{- fail "VALIDATION_ERROR kind=external_autoscaling: the chart starts no server in mode external; disable server.autoscaling" -}}
{{- end -}}
{{- end -}}
{{- if and (ne $mode "external") .Values.tee.external.addresses -}}
{{- fail (printf "VALIDATION_ERROR kind=external_elsewhere: tee.external.addresses is set in mode %s; remove it" $mode) -}}
{{- end -}}
{{- if and (eq $mode "nodeCvm") .Values.server.enabled -}}
{{- if not .Values.tee.nodeCvm.nodeSelector -}}
{{- fail "VALIDATION_ERROR kind=node_selector: tee.nodeCvm.nodeSelector is empty; name the label of the nodes that are TDX guests" -}}
{{- end -}}
{{- if ne (toString .Values.server.rollout.maxSurge) "0" -}}
{{- fail "VALIDATION_ERROR kind=node_surge: two servers in one TDX guest would both extend RTMR3; set server.rollout.maxSurge to 0" -}}
{{- end -}}
{{- if .Values.server.autoscaling.enabled -}}
{{- fail "VALIDATION_ERROR kind=node_autoscaling: a TDX node serves one configuration until it boots again; scale nodes and server.replicas together" -}}
{{- end -}}
{{- end -}}
{{- if and (eq $mode "kata") .Values.server.enabled (not .Values.tee.kata.initData) -}}
{{- fail "VALIDATION_ERROR kind=kata_initdata: tee.kata.initData is empty; without it the guest runs whatever its host says" -}}
{{- end -}}
{{- if and (ne $mode "kata") (or .Values.tee.kata.initData .Values.tee.kata.imageStore) -}}
{{- fail (printf "VALIDATION_ERROR kind=kata_elsewhere: tee.kata.initData or imageStore is set in mode %s; remove it" $mode) -}}
{{- end -}}
{{- range $name, $_ := .Values.server.podAnnotations -}}
{{- if hasPrefix "io.katacontainers." $name -}}
{{- fail (printf "VALIDATION_ERROR kind=kata_annotation: server.podAnnotations sets %s; a guest is configured by its measured init-data alone" $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "tacit.networkGuards" -}}
{{- if .Values.route.enabled -}}
{{- if not .Values.server.enabled -}}
{{- fail "VALIDATION_ERROR kind=route_server: route.enabled without a server; disable it" -}}
{{- end -}}
{{- if or (not .Values.route.parentRefs) (not .Values.route.hostnames) -}}
{{- fail "VALIDATION_ERROR kind=route_incomplete: route needs parentRefs and hostnames; name both" -}}
{{- end -}}
{{- if include "tacit.hasServer" . -}}
{{- $config := include "tacit.serverConfig" . | fromJson -}}
{{- range .Values.route.hostnames -}}
{{- if not (has . $config.listen.hostnames) -}}
{{- fail (printf "VALIDATION_ERROR kind=route_hostname: %s is not in listen.hostnames of server.config; the certificate would not name it" .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and .Values.networkPolicy.enabled (include "tacit.hasServer" .) (not .Values.broker.enabled) (not .Values.networkPolicy.brokerPeers) -}}
{{- fail "VALIDATION_ERROR kind=broker_peers: the broker is not in this release and nothing may be reached; name it in networkPolicy.brokerPeers" -}}
{{- end -}}
{{- range .Values.networkPolicy.brokerEgress -}}
{{- if not (and .to .ports) -}}
{{- fail "VALIDATION_ERROR kind=egress_everywhere: a rule of networkPolicy.brokerEgress has empty to or ports, which would let everything through; name them" -}}
{{- end -}}
{{- end -}}
{{- if .Values.verification.enabled -}}
{{- if not .Values.server.enabled -}}
{{- fail "VALIDATION_ERROR kind=verification_server: verification.enabled without a server; disable it" -}}
{{- end -}}
{{- if not .Values.verification.policy -}}
{{- fail "VALIDATION_ERROR kind=verification_policy: verification.policy is empty; a test without a policy proves nothing" -}}
{{- end -}}
{{- if and (ne .Values.tee.mode "simulated") (not .Values.verification.policySigner) -}}
{{- fail "VALIDATION_ERROR kind=verification_signer: verification.policySigner is empty; production relies on signed policies only" -}}
{{- end -}}
{{- include "tacit.imageGuard" (list . "verification" .Values.verification.image) -}}
{{- end -}}
{{- end -}}

{{/* (list root name image) */}}
{{- define "tacit.imageGuard" -}}
{{- $mode := (index . 0).Values.tee.mode -}}
{{- $image := index . 2 -}}
{{- if not $image.repository -}}
{{- fail (printf "VALIDATION_ERROR kind=image_repository: %s.image.repository is empty; name the image you built and reviewed" (index . 1)) -}}
{{- end -}}
{{- if and (ne $mode "simulated") (not $image.digest) -}}
{{- fail (printf "VALIDATION_ERROR kind=image_digest: %s.image.digest is required in mode %s; a tag can be moved" (index . 1) $mode) -}}
{{- end -}}
{{- if not (or $image.digest $image.tag) -}}
{{- fail (printf "VALIDATION_ERROR kind=image_tag: %s.image has neither digest nor tag; give one" (index . 1)) -}}
{{- end -}}
{{- end -}}
