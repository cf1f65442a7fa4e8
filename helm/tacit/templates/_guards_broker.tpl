{{/* broker.config against what the chart places around it */}}
{{- define "tacit.brokerGuards" -}}
{{- $mode := .Values.tee.mode -}}
{{- include "tacit.imageGuard" (list . "broker" .Values.broker.image) -}}
{{- if not .Values.broker.config -}}
{{- fail "VALIDATION_ERROR kind=broker_config: broker.config is empty; use --set-file broker.config=FILE" -}}
{{- end -}}
{{- $config := include "tacit.brokerConfig" . | fromJson -}}
{{- if or (hasKey $config "Error") (not $config) -}}
{{- fail "VALIDATION_ERROR kind=broker_config: broker.config is not a YAML mapping; give the file that `tacit broker` reads" -}}
{{- end -}}
{{- range $key := list "version" "profile" "listen" "tls" "store" "kek" "token_key" "endorsements" "policy" "resources" -}}
{{- if not (hasKey $config $key) -}}
{{- fail (printf "VALIDATION_ERROR kind=broker_config: broker.config has no %s; `tacit broker CONFIG --check` reads it as the broker does" $key) -}}
{{- end -}}
{{- end -}}
{{- $profile := ternary "simulated" "production" (eq $mode "simulated") -}}
{{- if ne $config.profile $profile -}}
{{- fail (printf "VALIDATION_ERROR kind=broker_profile: the broker's profile is %s in mode %s; it must be %s" $config.profile $mode $profile) -}}
{{- end -}}
{{- if and (include "tacit.hardware" .) (not .Values.broker.trustedCluster) -}}
{{- fail (printf "VALIDATION_ERROR kind=broker_cluster: in mode %s this cluster's administrators are not trusted, and a broker here would give them every key; run it elsewhere or set broker.trustedCluster" $mode) -}}
{{- end -}}
{{- if not (has $config.listen.host (list "0.0.0.0" "::")) -}}
{{- fail (printf "VALIDATION_ERROR kind=broker_listen: listen.host is %s; a pod is reached at 0.0.0.0 or '::'" $config.listen.host) -}}
{{- end -}}
{{- if or (lt (int $config.listen.port) 1024) (gt (int $config.listen.port) 65535) -}}
{{- fail (printf "VALIDATION_ERROR kind=broker_listen: listen.port is %d; choose 1024 to 65535" (int $config.listen.port)) -}}
{{- end -}}
{{- with $config.admin -}}
{{- if or (ne .listen.host $config.listen.host) (lt (int .listen.port) 1024) (eq (int .listen.port) (int $config.listen.port)) -}}
{{- fail (printf "VALIDATION_ERROR kind=broker_admin: admin.listen is %s port %d; choose %s and another port from 1024" .listen.host (int .listen.port) $config.listen.host) -}}
{{- end -}}
{{- if not (hasPrefix "/etc/tacit/secret/" .tls.key) -}}
{{- fail (printf "VALIDATION_ERROR kind=broker_admin: admin.tls.key is %s; secretFiles appear at /etc/tacit/secret" .tls.key) -}}
{{- end -}}
{{- else -}}
{{- if .Values.networkPolicy.brokerAdmins -}}
{{- fail "VALIDATION_ERROR kind=broker_admin: networkPolicy.brokerAdmins is set and broker.config has no admin listener; remove one" -}}
{{- end -}}
{{- end -}}
{{- if include "tacit.brokerSqlite" . -}}
{{- if ne (int .Values.broker.replicas) 1 -}}
{{- fail (printf "VALIDATION_ERROR kind=broker_replicas: %d brokers cannot share a SQLite file; use PostgreSQL or one replica" (int .Values.broker.replicas)) -}}
{{- end -}}
{{- if not (hasPrefix "sqlite:/var/lib/tacit/" $config.store) -}}
{{- fail (printf "VALIDATION_ERROR kind=broker_store: store is %s; the volume that outlives a pod is /var/lib/tacit" $config.store) -}}
{{- end -}}
{{- else if .Values.broker.persistence.existingClaim -}}
{{- fail "VALIDATION_ERROR kind=broker_store: broker.persistence.existingClaim is set and the store is PostgreSQL; remove one" -}}
{{- end -}}
{{- if not .Values.broker.secretFiles.existingSecret -}}
{{- fail "VALIDATION_ERROR kind=broker_secrets: broker.secretFiles.existingSecret is empty; it holds the TLS key and the token key" -}}
{{- end -}}
{{- if not (hasPrefix "/etc/tacit/secret/" $config.tls.key) -}}
{{- fail (printf "VALIDATION_ERROR kind=broker_secrets: tls.key is %s; secretFiles appear at /etc/tacit/secret" $config.tls.key) -}}
{{- end -}}
{{- if not (hasPrefix "/etc/tacit/secret/" $config.token_key) -}}
{{- fail (printf "VALIDATION_ERROR kind=broker_secrets: token_key is %s; secretFiles appear at /etc/tacit/secret" $config.token_key) -}}
{{- end -}}
{{- if hasPrefix "file:" $config.kek -}}
{{- if not (and (hasPrefix "file:/run/tacit/private/" $config.kek) .Values.broker.privateFiles.existingSecret) -}}
{{- fail "VALIDATION_ERROR kind=broker_kek: a KEK in a file must be readable by its owner alone; name broker.privateFiles and file:/run/tacit/private/NAME" -}}
{{- end -}}
{{- end -}}
{{- if and (contains "/run/tacit/private/" .Values.broker.config) (not .Values.broker.privateFiles.existingSecret) -}}
{{- fail "VALIDATION_ERROR kind=broker_private: broker.config names a private file and broker.privateFiles.existingSecret is empty; name the Secret that holds it" -}}
{{- end -}}
{{- include "tacit.pccsGuard" (list . "broker" $config.endorsements) -}}
{{- if and .Values.broker.endorsements.existingConfigMap (not (include "tacit.pccsPort" (list $config.endorsements))) (not (hasPrefix "/etc/tacit/endorsements" (toString $config.endorsements))) -}}
{{- fail (printf "VALIDATION_ERROR kind=broker_endorsements: endorsements is %v; broker.endorsements appears at /etc/tacit/endorsements" $config.endorsements) -}}
{{- end -}}
{{- $named := list $config.policy $config.tls.certificate -}}
{{- with $config.policy_signer }}{{ $named = append $named . }}{{ end -}}
{{- with $config.admin }}{{ $named = append $named .tls.certificate }}{{ end -}}
{{- range $config.resources }}{{ $named = concat $named (list .policy .wrapped_key) }}{{ end -}}
{{- range uniq $named -}}
{{- if not (or (hasPrefix "/" .) (hasKey $.Values.broker.files .)) -}}
{{- fail (printf "VALIDATION_ERROR kind=broker_file: broker.config names %s, which broker.files does not hold; add it" .) -}}
{{- end -}}
{{- end -}}
{{- range $name, $text := .Values.broker.files -}}
{{- if contains "PRIVATE KEY" $text -}}
{{- fail (printf "VALIDATION_ERROR kind=secret_values: broker.files.%s is a private key; values are stored in the release, so put it into a Secret of your own" $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
