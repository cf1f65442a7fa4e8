{{/* The volumes of a server: its configuration, keys and packages, and everything it writes in memory */}}
{{- define "tacit.serverVolumes" -}}
{{- $mode := .Values.tee.mode -}}
- name: config
  configMap:
    name: {{ include "tacit.serverConfigName" . }}
- name: api-keys
  secret:
    secretName: {{ .Values.server.apiKeys.existingSecret }}
{{- with .Values.monitoring.collectorSecret }}
- name: collector
  secret:
    secretName: {{ . }}
{{- end }}
{{- with .Values.server.endorsements.existingConfigMap }}
- name: endorsements
  configMap:
    name: {{ . }}
{{- end }}
{{- if include "tacit.serverPccsPort" . }}
- name: collateral-cache
  emptyDir:
    medium: Memory
    sizeLimit: 64Mi
{{- end }}
- name: run
  {{- if eq $mode "nodeCvm" }}
  hostPath:
    path: {{ .Values.tee.nodeCvm.stateDirectory }}
    type: DirectoryOrCreate
  {{- else }}
  emptyDir:
    medium: Memory
    sizeLimit: {{ .Values.server.memoryVolumes.run }}
  {{- end }}
- name: shared-memory
  emptyDir:
    medium: Memory
    sizeLimit: {{ .Values.server.memoryVolumes.shared }}
- name: temporary
  emptyDir:
    medium: Memory
    sizeLimit: {{ .Values.server.memoryVolumes.temporary }}
{{- range $name, $model := .Values.models }}
{{- with $model.existingClaim }}
- name: {{ include "tacit.modelVolume" $name }}
  persistentVolumeClaim:
    claimName: {{ . }}
{{- end }}
{{- with $model.hostPath }}
- name: {{ include "tacit.modelVolume" $name }}
  hostPath:
    path: {{ . }}
    type: Directory
{{- end }}
{{- end }}
{{- if eq $mode "simulated" }}
- name: software-tdx
  emptyDir:
    medium: Memory
    sizeLimit: 16Mi
- name: mock-intel
  secret:
    secretName: {{ .Values.tee.simulated.existingSecret }}
{{- else }}
{{- range include "tacit.tdxInterfaces" . | fromJsonArray }}
- name: {{ .name }}
  hostPath:
    path: {{ .host }}
    {{- if eq $mode "nodeCvm" }}
    type: Directory
    {{- end }}
{{- end }}
{{- end }}
{{- with .Values.tee.kata.imageStore }}
- name: image-store
  persistentVolumeClaim:
    claimName: {{ . }}
{{- end }}
{{- end -}}

{{/*
The guest kernel's interfaces. Containers see no /sys/firmware, so the event log is bound to a place of its
own; the collector looks there too, and believes neither. A Kata host need not be a TDX guest itself: the
paths must exist on it, and the runtime binds the guest's own.
*/}}
{{- define "tacit.tdxInterfaces" -}}
{{- $acpi := dict "name" "acpi" "host" "/sys/firmware/acpi" "path" "/run/tacit-acpi" "writes" false -}}
{{- $tsm := dict "name" "tsm" "host" "/sys/kernel/config" "path" "/sys/kernel/config" "writes" true -}}
{{- $guest := dict "name" "tdx-guest" "host" "/sys/devices/virtual/misc/tdx_guest" "path" "/sys/devices/virtual/misc/tdx_guest" "writes" true -}}
{{- $sys := dict "name" "sys" "host" "/sys" "path" "/sys" "writes" true -}}
{{- eq .Values.tee.mode "kata" | ternary (list $sys $acpi) (list $tsm $guest $acpi) | toJson -}}
{{- end -}}

{{/* A volume name of a served model name, which may hold what volume names may not */}}
{{- define "tacit.modelVolume" -}}
model-{{ sha256sum . | trunc 10 }}
{{- end -}}

{{- define "tacit.serverMounts" -}}
- name: config
  mountPath: /etc/tacit/config
  readOnly: true
- name: api-keys
  mountPath: /etc/tacit/api-keys
  readOnly: true
{{- if .Values.monitoring.collectorSecret }}
- name: collector
  mountPath: /etc/tacit/collector
  readOnly: true
{{- end }}
{{- if .Values.server.endorsements.existingConfigMap }}
- name: endorsements
  mountPath: /etc/tacit/endorsements
  readOnly: true
{{- end }}
{{- if include "tacit.serverPccsPort" . }}
- name: collateral-cache
  mountPath: /var/cache/tacit
{{- end }}
- name: run
  mountPath: /run/tacit
- name: shared-memory
  mountPath: /dev/shm
- name: temporary
  mountPath: /tmp
{{- range $name, $model := .Values.models }}
{{- if not $model.inImage }}
- name: {{ include "tacit.modelVolume" $name }}
  mountPath: /srv/tacit/models/{{ $name }}
  {{- with $model.subPath }}
  subPath: {{ . }}
  {{- end }}
  readOnly: true
{{- end }}
{{- end }}
{{- if eq .Values.tee.mode "simulated" }}
- name: software-tdx
  mountPath: /run/tacit-tdx
{{- else }}
{{- range include "tacit.tdxInterfaces" . | fromJsonArray }}
- name: {{ .name }}
  mountPath: {{ .path }}
  {{- if not .writes }}
  readOnly: true
  {{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Software TDX beside the server, in mode simulated only: a state made from the Secret, then served */}}
{{- define "tacit.softwareTdx" -}}
- name: software-tdx
  image: {{ include "tacit.image" (list . .Values.server.image) }}
  imagePullPolicy: {{ .Values.server.image.pullPolicy }}
  restartPolicy: Always
  command:
    - {{ .Values.tee.simulated.simulator }}
    - -c
    - |
      import os, pathlib, shutil, sys
      os.umask(0o077)
      source, state = pathlib.Path("/etc/tacit/mock-intel"), pathlib.Path("/run/tacit-tdx/tdx")
      for file in source.iterdir():
          if file.is_file():
              folder, _, name = file.name.partition("-")  # a Secret has no directories
              inside = folder in {"intel", "nvidia", "endorsements"}
              place = state / folder / name if inside else state / file.name
              place.parent.mkdir(parents=True, exist_ok=True)
              shutil.copyfile(file, place)
      command = [sys.executable, "-m", "attestation.simulator", "serve", str(state)]
      os.execv(sys.executable, command)
  startupProbe:
    exec:
      command: [{{ .Values.tee.simulated.simulator }}, -c, "import os, sys; sys.exit(not os.path.exists('/run/tacit-tdx/tdx/ccel/data'))"]
    periodSeconds: 2
    timeoutSeconds: 5
    failureThreshold: 30
  resources:
    {{- include "tacit.resources" (dict "cpu" "100m" "memory" "256Mi") | nindent 4 }}
  securityContext:
    {{- include "tacit.restrictedContainer" . | nindent 4 }}
  terminationMessagePolicy: File
  volumeMounts:
    - name: software-tdx
      mountPath: /run/tacit-tdx
    - name: mock-intel
      mountPath: /etc/tacit/mock-intel
      readOnly: true
    - name: temporary
      mountPath: /tmp
{{- end -}}

{{/* One TDX guest, one server: only one process may extend its RTMR3. */}}
{{- define "tacit.serverAffinity" -}}
{{- $affinity := deepCopy .Values.server.affinity -}}
{{- if eq .Values.tee.mode "nodeCvm" -}}
{{- $labels := dict "app.kubernetes.io/name" "tacit" "app.kubernetes.io/component" "server" -}}
{{- $term := dict "topologyKey" "kubernetes.io/hostname" "namespaceSelector" (dict) "labelSelector" (dict "matchLabels" $labels) -}}
{{- $anti := default (dict) $affinity.podAntiAffinity -}}
{{- $required := append (default (list) $anti.requiredDuringSchedulingIgnoredDuringExecution) $term -}}
{{- $_ := set $anti "requiredDuringSchedulingIgnoredDuringExecution" $required -}}
{{- $_ := set $affinity "podAntiAffinity" $anti -}}
{{- end -}}
{{- with $affinity }}{{ toYaml . }}{{ end -}}
{{- end -}}
