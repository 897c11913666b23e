{{- define "sublet.labels" -}}
app.kubernetes.io/name: sublet
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end -}}

{{- define "sublet.plugin.selector" -}}
app.kubernetes.io/name: sublet
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: device-plugin
{{- end -}}

{{- define "sublet.agent.selector" -}}
app.kubernetes.io/name: sublet
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: agent
{{- end -}}

{{- define "sublet.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{- /* "true" where there is something for the agent to do, otherwise nothing. */ -}}
{{- define "sublet.agent.wanted" -}}
{{- if or .Values.labels.enabled .Values.config.perNode .Values.mig.manager.enabled -}}
true
{{- end -}}
{{- end -}}

{{- /* "true" where the plugin leaves something on a node that outlives it. */ -}}
{{- define "sublet.plugin.leaves" -}}
{{- if or .Values.mps.enabled .Values.cdi.enabled -}}
true
{{- end -}}
{{- end -}}

{{- /* "true" where the agent writes to folders of the host. */ -}}
{{- define "sublet.agent.root" -}}
{{- if or .Values.config.perNode .Values.mig.manager.enabled (eq .Values.labels.to "file") -}}
true
{{- end -}}
{{- end -}}

{{- define "sublet.configmap" -}}
{{ .Values.config.existing | default (printf "%s-configs" .Release.Name) }}
{{- end -}}

{{- define "sublet.mig.configmap" -}}
{{ .Values.mig.manager.existing | default (printf "%s-mig-configs" .Release.Name) }}
{{- end -}}

{{- /* Where the plugin and the labels find their configuration. */ -}}
{{- define "sublet.configfile" -}}
{{- if .Values.config.perNode -}}
/config/config.yaml
{{- else -}}
/available-configs/{{ .Values.config.default }}
{{- end -}}
{{- end -}}

{{- define "sublet.placement" -}}
priorityClassName: {{ .Values.priorityClassName }}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if .Values.driver.runtimeClassName }}
runtimeClassName: {{ .Values.driver.runtimeClassName }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "sublet.pause" -}}
- name: done
  image: {{ .Values.cleanup.pauseImage }}
  resources:
    requests: {cpu: 1m, memory: 8Mi}
    limits: {memory: 32Mi}
  securityContext:
    allowPrivilegeEscalation: false
    readOnlyRootFilesystem: true
    runAsNonRoot: true
    runAsUser: 65535
    capabilities: {drop: [ALL]}
    seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "sublet.plugin.security" -}}
{{- if .Values.mps.enabled }}
# MPS: control daemons of root, compute modes of GPUs, sockets and shared memory of other pods.
privileged: true
{{- else if eq .Values.driver.source "host" }}
# No container runtime opens the driver's device nodes to it.
privileged: true
{{- else }}
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
  {{- if .Values.mig.monitor }}
  # The driver tells about all MIG devices only to who has it.
  add: [SYS_ADMIN]
  {{- end }}
seccompProfile: {type: RuntimeDefault}
{{- end }}
readOnlyRootFilesystem: true
# kubelet's folder is root's.
runAsUser: 0
{{- end -}}

{{- define "sublet.agent.security" -}}
{{- if .Values.mig.manager.enabled }}
# MIG instances are made and removed by root with all capabilities only.
privileged: true
runAsUser: 0
{{- else if eq .Values.driver.source "host" }}
# No container runtime opens the driver's device nodes to it.
privileged: true
runAsUser: 0
{{- else }}
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
  {{- if .Values.mig.monitor }}
  # The driver tells about all MIG devices only to who has it.
  add: [SYS_ADMIN]
  {{- end }}
seccompProfile: {type: RuntimeDefault}
{{- if or .Values.mig.monitor (eq (include "sublet.agent.root" .) "true") }}
# It writes to folders of the host's root, or has a capability, which only root keeps.
runAsUser: 0
{{- else }}
runAsNonRoot: {{ ne (int .Values.agent.runAsUser) 0 }}
runAsUser: {{ .Values.agent.runAsUser }}
{{- end }}
{{- end }}
readOnlyRootFilesystem: true
{{- end -}}

{{- /* Environment by which NVIDIA's runtime gives a container the driver. */ -}}
{{- define "sublet.driver.env" -}}
{{- if eq .Values.driver.source "runtime" }}
- {name: NVIDIA_VISIBLE_DEVICES, value: all}
- {name: NVIDIA_DRIVER_CAPABILITIES, value: "compute,utility"}
{{- if or .Values.mig.monitor .Values.mig.manager.enabled }}
- {name: NVIDIA_MIG_MONITOR_DEVICES, value: all}
{{- end }}
{{- else }}
- {name: NVIDIA_VISIBLE_DEVICES, value: void}
- {name: SUBLET_NVML, value: {{ printf "/driver-root%s" .Values.driver.nvml | quote }}}
{{- end }}
{{- end -}}

{{- define "sublet.driver.mounts" -}}
{{- if eq .Values.driver.source "host" }}
- {name: driver-root, mountPath: /driver-root, readOnly: true, mountPropagation: HostToContainer}
# Nodes that are made after the pod began are seen, too.
- {name: dev, mountPath: /dev}
{{- end }}
{{- end -}}

{{- /* Who it is: of which node, and whose NodeFeature object goes with which pod. */ -}}
{{- define "sublet.agent.env" -}}
- name: NODE_NAME
  valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
- name: NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: POD_UID
  valueFrom: {fieldRef: {fieldPath: metadata.uid}}
{{- end -}}

{{- define "sublet.apiserver" -}}
- ports:
    {{- range .Values.networkPolicy.apiServer.ports }}
    - {protocol: TCP, port: {{ . }}}
    {{- end }}
  {{- with .Values.networkPolicy.apiServer.cidr }}
  to:
    - ipBlock: {cidr: {{ . }}}
  {{- end }}
{{- end -}}
