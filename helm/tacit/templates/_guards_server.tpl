{{/* server.config against what the chart places around it */}}
{{- define "tacit.serverGuards" -}}
{{- $mode := .Values.tee.mode -}}
{{- include "tacit.imageGuard" (list . "server" .Values.server.image) -}}
{{- if not .Values.server.config -}}
{{- fail "VALIDATION_ERROR kind=server_config: server.config is empty; use --set-file server.config=FILE" -}}
{{- end -}}
{{- $config := include "tacit.serverConfig" . | fromJson -}}
{{- if or (hasKey $config "Error") (not $config) -}}
{{- fail "VALIDATION_ERROR kind=server_config: server.config is not a YAML mapping; give the file that `tacit serve` reads" -}}
{{- end -}}
{{- range $key := list "version" "profile" "listen" "attestation" "broker" "models" "api_keys" "run_directory" "limits" -}}
{{- if not (hasKey $config $key) -}}
{{- fail (printf "VALIDATION_ERROR kind=server_config: server.config has no %s; `tacit doctor CONFIG` reads it as the server does" $key) -}}
{{- end -}}
{{- end -}}
{{- $profile := ternary "simulated" "production" (eq $mode "simulated") -}}
{{- if ne $config.profile $profile -}}
{{- fail (printf "VALIDATION_ERROR kind=profile: profile %s in mode %s; it must be %s" $config.profile $mode $profile) -}}
{{- end -}}
{{- if not (has $config.listen.host (list "0.0.0.0" "::")) -}}
{{- fail (printf "VALIDATION_ERROR kind=listen_host: listen.host is %s; a pod is reached at 0.0.0.0 or '::'" $config.listen.host) -}}
{{- end -}}
{{- if or (lt (int $config.listen.port) 1024) (gt (int $config.listen.port) 65535) -}}
{{- fail (printf "VALIDATION_ERROR kind=listen_port: listen.port is %d; choose 1024 to 65535 and map it with server.service.port" (int $config.listen.port)) -}}
{{- end -}}
{{- if not (regexMatch "^/run/tacit/[^/.][^/]*$" $config.run_directory) -}}
{{- fail (printf "VALIDATION_ERROR kind=run_directory: run_directory is %s; only /run/tacit/NAME is in memory" $config.run_directory) -}}
{{- end -}}
{{- if not .Values.server.apiKeys.existingSecret -}}
{{- fail "VALIDATION_ERROR kind=api_keys: server.apiKeys.existingSecret is empty; `tacit apikey new` writes api-keys.yaml for it" -}}
{{- end -}}
{{- if ne $config.api_keys "/etc/tacit/api-keys/api-keys.yaml" -}}
{{- fail (printf "VALIDATION_ERROR kind=api_keys: api_keys is %s; the chart mounts /etc/tacit/api-keys/api-keys.yaml" $config.api_keys) -}}
{{- end -}}
{{- if not (and .Values.server.resources.cpu .Values.server.resources.memory) -}}
{{- fail "VALIDATION_ERROR kind=resources: server.resources.cpu and memory are required; an unsized server is killed under load" -}}
{{- end -}}
{{- include "tacit.attestationGuard" (list . $config) -}}
{{- include "tacit.trustGuard" (list . $config) -}}
{{- include "tacit.modelGuards" (list . $config) -}}
{{- if .Values.broker.enabled -}}{{- include "tacit.brokerUrlGuard" (list . $config) -}}{{- end -}}
{{- if and .Values.server.autoscaling.enabled (gt (int .Values.server.autoscaling.minReplicas) (int .Values.server.autoscaling.maxReplicas)) -}}
{{- fail "VALIDATION_ERROR kind=autoscaling: minReplicas is over maxReplicas; swap them" -}}
{{- end -}}
{{- if not (or (has (toString .Values.server.rollout.maxSurge | trimSuffix "%") (list "0" "00") | not) (has (toString .Values.server.rollout.maxUnavailable | trimSuffix "%") (list "0" "00") | not)) -}}
{{- fail "VALIDATION_ERROR kind=rollout: maxSurge and maxUnavailable are both 0; an update could never begin" -}}
{{- end -}}
{{- end -}}

{{- define "tacit.attestationGuard" -}}
{{- $root := index . 0 -}}
{{- $attestation := (index . 1).attestation -}}
{{- include "tacit.pccsGuard" (list $root "server" $attestation.endorsements) -}}
{{- if and $root.Values.server.endorsements.existingConfigMap (ne $root.Values.tee.mode "simulated") (not (include "tacit.pccsPort" (list $attestation.endorsements))) (not (hasPrefix "/etc/tacit/endorsements" (toString $attestation.endorsements))) -}}
{{- fail (printf "VALIDATION_ERROR kind=endorsements: attestation.endorsements is %v; server.endorsements appears at /etc/tacit/endorsements" $attestation.endorsements) -}}
{{- end -}}
{{- if eq $root.Values.tee.mode "simulated" -}}
{{- if ne $attestation.mode "insecure-simulated" -}}
{{- fail "VALIDATION_ERROR kind=attestation_mode: mode simulated has no TDX; set attestation.mode to insecure-simulated" -}}
{{- end -}}
{{- if not $root.Values.tee.simulated.existingSecret -}}
{{- fail "VALIDATION_ERROR kind=simulator: tee.simulated.existingSecret is empty; `python -m attestation.simulator new DIR` makes what it must hold" -}}
{{- end -}}
{{- if ne (default "" $attestation.directory) "/run/tacit-tdx/tdx" -}}
{{- fail "VALIDATION_ERROR kind=simulator: attestation.directory is elsewhere; the chart puts the software TDX at /run/tacit-tdx/tdx" -}}
{{- end -}}
{{- with (index . 1).gpu -}}
{{- if and (eq .mode "insecure-simulated") (ne (default "" .directory) "/run/tacit-tdx/tdx") -}}
{{- fail "VALIDATION_ERROR kind=simulator: gpu.directory is elsewhere; the chart puts software GPUs beside the software TDX at /run/tacit-tdx/tdx" -}}
{{- end -}}
{{- end -}}
{{- else if ne $attestation.mode "tdx" -}}
{{- fail (printf "VALIDATION_ERROR kind=attestation_mode: mode %s runs on hardware; set attestation.mode to tdx" $root.Values.tee.mode) -}}
{{- end -}}
{{- end -}}

{{/* (list root part endorsements): a PCCS that is asked from a pod */}}
{{- define "tacit.pccsGuard" -}}
{{- $root := index . 0 -}}
{{- $part := index . 1 -}}
{{- $source := index . 2 -}}
{{- if kindIs "map" $source -}}
{{- if not (and $source.pccs $source.cache $source.certificate_authority) -}}
{{- fail (printf "VALIDATION_ERROR kind=pccs: endorsements of the %s is a mapping without pccs, cache or certificate_authority; give all of them" $part) -}}
{{- end -}}
{{- if ne $source.cache "/var/cache/tacit" -}}
{{- fail (printf "VALIDATION_ERROR kind=pccs: endorsements.cache of the %s is %s; the chart puts a volume in memory at /var/cache/tacit" $part $source.cache) -}}
{{- end -}}
{{- $authority := $source.certificate_authority -}}
{{- $beside := and (eq $part "broker") (hasKey $root.Values.broker.files $authority) -}}
{{- if not (or (eq $authority "system") (hasPrefix "/etc/tacit/endorsements/" $authority) $beside) -}}
{{- fail (printf "VALIDATION_ERROR kind=pccs: certificate_authority of the %s is %s; put it into the ConfigMap of endorsements, at /etc/tacit/endorsements" $part $authority) -}}
{{- end -}}
{{- if and (hasPrefix "/etc/tacit/endorsements/" $authority) (not (get $root.Values $part).endorsements.existingConfigMap) -}}
{{- fail (printf "VALIDATION_ERROR kind=pccs: certificate_authority of the %s is %s and %s.endorsements.existingConfigMap is empty; name the ConfigMap that holds it" $part $authority $part) -}}
{{- end -}}
{{- if and $root.Values.networkPolicy.enabled (not $root.Values.networkPolicy.collateralPeers) -}}
{{- fail (printf "VALIDATION_ERROR kind=pccs_peers: the %s asks a PCCS and nothing may be reached; name it in networkPolicy.collateralPeers" $part) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Every trust file that the configuration names lies beside it, under a plain name */}}
{{- define "tacit.trustGuard" -}}
{{- $root := index . 0 -}}
{{- $config := index . 1 -}}
{{- $named := list $config.broker.certificate -}}
{{- range $config.models }}{{ $named = append $named .signer }}{{ end -}}
{{- if eq $config.broker.protocol "native" }}{{ $named = append $named $config.broker.statement_key }}{{ end -}}
{{- if eq $config.gpu.mode "insecure-simulated" }}{{ $named = concat $named (list $config.gpu.device_root $config.gpu.rim_root) }}{{ end -}}
{{- with $config.operator }}{{ $named = append $named (eq .login.kind "mtls" | ternary .login.ca .login.jwks) }}{{ end -}}
{{- with $config.clients }}{{ with .tokens }}{{ $named = append $named .jwks }}{{ end }}{{ with .certificates }}{{ $named = append $named .ca }}{{ end }}{{ end -}}
{{- with $config.telemetry }}{{ with .otlp }}{{ $named = append $named .ca }}{{ end }}{{ end -}}
{{- range uniq $named -}}
{{- if not (hasKey $root.Values.server.trustFiles .) -}}
{{- fail (printf "VALIDATION_ERROR kind=trust_file: server.config names %s, which server.trustFiles does not hold; paths beside the configuration are plain names" .) -}}
{{- end -}}
{{- end -}}
{{- range $name, $text := $root.Values.server.trustFiles -}}
{{- if contains "PRIVATE KEY" $text -}}
{{- fail (printf "VALIDATION_ERROR kind=secret_values: server.trustFiles.%s is a private key; only certificates and public keys belong here" $name) -}}
{{- end -}}
{{- if not (has $name $named) -}}
{{- fail (printf "VALIDATION_ERROR kind=trust_file: server.config does not name %s, so nothing would measure it; remove it from server.trustFiles" $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "tacit.modelGuards" -}}
{{- $root := index . 0 -}}
{{- $config := index . 1 -}}
{{- $mode := $root.Values.tee.mode -}}
{{- $parallel := 0 -}}
{{- range $name, $model := $config.models -}}
{{- if not (hasKey $root.Values.models $name) -}}
{{- fail (printf "VALIDATION_ERROR kind=model_place: server.config serves %s and models does not say where its package lies; add models.NAME" $name) -}}
{{- end -}}
{{- if not (or (eq $model.sealed (printf "/srv/tacit/models/%s" $name)) (hasPrefix (printf "/srv/tacit/models/%s/" $name) $model.sealed)) -}}
{{- fail (printf "VALIDATION_ERROR kind=model_path: sealed of %s is %s; its package appears at /srv/tacit/models/%s" $name $model.sealed $name) -}}
{{- end -}}
{{- if and (eq $mode "simulated") (eq $model.engine.isolation "required") -}}
{{- fail (printf "VALIDATION_ERROR kind=isolation: engine of %s requires isolation, which Pod Security restricted does not grant; mode simulated uses best-effort" $name) -}}
{{- end -}}
{{- if and (ne $mode "simulated") (ne $model.engine.isolation "required") -}}
{{- fail (printf "VALIDATION_ERROR kind=isolation: engine of %s does not require isolation; profile production refuses that" $name) -}}
{{- end -}}
{{- if eq $model.engine.device "cuda" }}{{ $parallel = add $parallel (int $model.engine.tensor_parallel_size) }}{{ end -}}
{{- end -}}
{{- range $name, $place := $root.Values.models -}}
{{- if not (hasKey $config.models $name) -}}
{{- fail (printf "VALIDATION_ERROR kind=model_unserved: models holds %s, which server.config does not serve; remove it" $name) -}}
{{- end -}}
{{- $sources := 0 -}}
{{- range list $place.existingClaim $place.hostPath $place.inImage }}{{ if . }}{{ $sources = add1 $sources }}{{ end }}{{ end -}}
{{- if ne (int $sources) 1 -}}
{{- fail (printf "VALIDATION_ERROR kind=model_source: models.%s has %d sources; give one of existingClaim, hostPath, inImage" $name (int $sources)) -}}
{{- end -}}
{{- if and $place.subPath (not $place.existingClaim) -}}
{{- fail (printf "VALIDATION_ERROR kind=model_source: models.%s has a subPath without existingClaim; remove it" $name) -}}
{{- end -}}
{{- if and $place.hostPath (ne $mode "nodeCvm") -}}
{{- fail (printf "VALIDATION_ERROR kind=model_host_path: models.%s is on a node's disk, which only mode nodeCvm has inside its guest; use existingClaim" $name) -}}
{{- end -}}
{{- if and (eq $mode "kata") (not $place.inImage) -}}
{{- fail (printf "VALIDATION_ERROR kind=kata_volume: models.%s is a volume; a Kata guest copies volumes into its memory, so build the package into the image (inImage)" $name) -}}
{{- end -}}
{{- end -}}
{{- if gt (int $parallel) 8 -}}
{{- fail (printf "VALIDATION_ERROR kind=multi_node: engines use %d GPUs and a node has 8; what vLLM sends between nodes would not be attested, so serve a model that fits (`tacit doctor --plan`), or run replicas" (int $parallel)) -}}
{{- end -}}
{{- $gpus := int $root.Values.server.gpus.count -}}
{{- if ne $gpus (int $parallel) -}}
{{- fail (printf "VALIDATION_ERROR kind=gpu_count: engines use %d GPUs and server.gpus.count is %d; make them equal" (int $parallel) $gpus) -}}
{{- end -}}
{{- if and (gt (int $root.Values.server.gpus.switches) 0) (ne $gpus 8) -}}
{{- fail (printf "VALIDATION_ERROR kind=gpu_switches: NVSwitches are passed through with all 8 GPUs of a node, not with %d; set server.gpus.switches to 0" $gpus) -}}
{{- end -}}
{{- end -}}

{{- define "tacit.brokerUrlGuard" -}}
{{- $root := index . 0 -}}
{{- $url := urlParse (index . 1).broker.url -}}
{{- $name := include "tacit.name" (list $root "broker") -}}
{{- $space := $root.Release.Namespace -}}
{{- $names := list $name (printf "%s.%s" $name $space) (printf "%s.%s.svc" $name $space) (printf "%s.%s.svc.cluster.local" $name $space) -}}
{{- $hosts := list -}}
{{- range $names }}{{ $hosts = append $hosts (printf "%s:%d" . (int $root.Values.broker.service.port)) }}{{ end -}}
{{- if not (has $url.host $hosts) -}}
{{- fail (printf "VALIDATION_ERROR kind=broker_url: server.config asks the broker at %s; this release's is at %s" $url.host (last $hosts)) -}}
{{- end -}}
{{- end -}}
