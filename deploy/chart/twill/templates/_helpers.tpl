{{- define "twill.namespace" -}}
{{- .Values.namespace | default .Release.Namespace -}}
{{- end }}

{{- /* One Twill per cluster, since there is one /etc/cni/net.d per node: names are fixed. */}}
{{- define "twill.labels" -}}
app.kubernetes.io/name: twill
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{- define "twill.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end }}

{{- /* What no schema can say, because it is about two values. */}}
{{- define "twill.validate" -}}
{{- if not (or .Values.network.ipv4 .Values.network.ipv6) }}
{{- fail "network.ipv4 and network.ipv6 are both empty: give at least one" }}
{{- end }}
{{- range splitList "." (index (splitList "/" .Values.network.ipv4) 0) }}
{{- if gt (int .) 255 }}
{{- fail (printf "network.ipv4: %s is no IPv4 network: %s is more than 255" $.Values.network.ipv4 .) }}
{{- end }}
{{- end }}
{{- if and (ne .Values.backend "bgp") (or .Values.bgp.config .Values.bgp.passwordSecret) }}
{{- fail "bgp.config and bgp.passwordSecret are for the backend bgp: set backend=bgp, or remove them" }}
{{- end }}
{{- if and .Values.proxy.config (not .Values.proxy.enabled) }}
{{- fail "proxy.config is for the service proxy, which proxy.enabled=false switches off: remove it" }}
{{- end }}
{{- if and .Values.network.ipv6 (gt (int .Values.vxlan.vni) 9999) }}
{{- fail "vxlan.vni: with network.ipv6 it is at most 9999, or else the device flannel-v6.<VNI> has too long a name" }}
{{- end }}
{{- with .Values.uplink }}
{{- if gt (len (compact (list .iface .ifaceRegex (ternary "nodeIP" "" .nodeIP)))) 1 }}
{{- fail "uplink: give one of iface, ifaceRegex and nodeIP" }}
{{- end }}
{{- end }}
{{- if and .Values.monitoring.enabled (eq (int .Values.monitoring.port) (int .Values.health.port)) }}
{{- fail "monitoring.port and health.port are the same: they are served on different addresses" }}
{{- end }}
{{- if .Values.page.enabled }}
{{- if eq (int .Values.page.port) (int .Values.health.port) }}
{{- fail "page.port and health.port are the same: give page.port another one" }}
{{- end }}
{{- if and .Values.monitoring.enabled (eq (int .Values.page.port) (int .Values.monitoring.port)) }}
{{- fail "page.port and monitoring.port are the same: give page.port another one" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "twill.netConf" -}}
{{- $backend := dict "Type" .Values.backend "VNI" (int .Values.vxlan.vni) -}}
{{- with .Values.vxlan -}}
{{- if .port }}{{ $_ := set $backend "Port" (int .port) }}{{ end -}}
{{- if .mtu }}{{ $_ := set $backend "MTU" (int .mtu) }}{{ end -}}
{{- if .directRouting }}{{ $_ := set $backend "DirectRouting" true }}{{ end -}}
{{- end -}}
{{- $conf := dict "EnableIPv4" (ne .Values.network.ipv4 "") "EnableIPv6" (ne .Values.network.ipv6 "") "Backend" $backend -}}
{{- with .Values.network.ipv4 }}{{ $_ := set $conf "Network" . }}{{ end -}}
{{- with .Values.network.ipv6 }}{{ $_ := set $conf "IPv6Network" . }}{{ end -}}
{{- toPrettyJson $conf -}}
{{- end }}

{{- /* twilld's settings. What differs from node to node, and what an overlay of kustomize changes, is in the DaemonSet. */}}
{{- define "twill.settings" -}}
backend: {{ .Values.backend }}
datastore: kube
net-conf: /etc/twill/net-conf.json
{{- with .Values.kubernetes.apiServers }}
kube-api-address: {{ join "," . | quote }}
{{- end }}
{{- if .Values.bgp.config }}
bgp-config: /etc/twill/bgp.yaml
{{- end }}
proxy: {{ ternary "nftables" "off" .Values.proxy.enabled | quote }}
{{- if .Values.proxy.config }}
proxy-config: /etc/twill/proxy.yaml
{{- end }}
{{- with .Values.uplink.iface }}
iface: {{ . | quote }}
{{- end }}
{{- with .Values.uplink.ifaceRegex }}
iface-regex: {{ . | quote }}
{{- end }}
ip-masq: {{ .Values.ipMasq }}
vxlan-checksum-offload: {{ .Values.vxlan.checksumOffload | quote }}
pod-release-delay: {{ .Values.podReleaseDelay }}
cni-conf-dir: {{ .Values.host.cniConfDir }}
run-dir: {{ .Values.host.runDir }}
subnet-file: {{ .Values.host.subnetFile }}
host-local-dir: {{ .Values.host.hostLocalDir | quote }}
# The container's own /proc/sys is read-only: this is where the DaemonSet mounts the host's /proc/sys/net.
sysctl-dir: /host/proc/sys
health-address: 127.0.0.1:{{ .Values.health.port }}
{{- if .Values.page.enabled }}
page: 127.0.0.1:{{ .Values.page.port }}
{{- end }}
log-level: {{ .Values.log.level }}
log-format: {{ .Values.log.format }}
{{- end }}

{{- define "twill.proxyConfig" -}}
{{- $kind := dict "apiVersion" "kubeproxy.config.k8s.io/v1alpha1" "kind" "KubeProxyConfiguration" -}}
{{- toYaml (merge $kind .Values.proxy.config) -}}
{{- end }}

{{- /* What both DaemonSets have in common: a pod that works on the host's network, and only there. */}}
{{- define "twill.pod" -}}
hostNetwork: true
# The host's own resolver: the cluster's DNS needs the network that is being made here.
dnsPolicy: Default
enableServiceLinks: false
serviceAccountName: twill
priorityClassName: {{ .Values.priorityClassName }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
nodeSelector:
  {{- merge (dict "kubernetes.io/os" "linux") .Values.nodeSelector | toYaml | nindent 2 }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
tolerations:
  {{- toYaml .Values.tolerations | nindent 2 }}
securityContext:
  seccompProfile: {type: RuntimeDefault}
  {{- with .Values.seLinuxOptions }}
  seLinuxOptions:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{- /* A container's rights: root, since the directories are root's, and of root's capabilities those that the list names. */}}
{{- define "twill.securityContext" -}}
runAsUser: 0
runAsGroup: 0
privileged: false
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
  {{- with . }}
  add: [{{ join ", " . }}]
  {{- end }}
{{- end }}

{{- /* NET_ADMIN: links, routes, nftables, sysctls of the network. NET_BIND_SERVICE: BGP's port 179. docs/operations.md has the details. */}}
{{- define "twill.capabilities" -}}
{{- $caps := list "NET_ADMIN" -}}
{{- if eq .Values.backend "bgp" }}{{ $caps = append $caps "NET_BIND_SERVICE" }}{{ end -}}
{{- toJson (concat $caps .Values.extraCapabilities | uniq) -}}
{{- end }}

{{- define "twill.env" -}}
- name: NODE_NAME
  valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
{{- if .Values.uplink.nodeIP }}
- name: NODE_IP
  valueFrom: {fieldRef: {fieldPath: status.hostIP}}
{{- end }}
{{- if not .Values.kubernetes.apiServers }}
# Where the API server is, for clusters without kube-proxy that are set up with kubectl alone.
- name: TWILLD_KUBE_API_ADDRESS
  valueFrom: {configMapKeyRef: {name: twill-api-server, key: address, optional: true}}
{{- end }}
{{- end }}

{{- define "twill.nodeArgs" -}}
- --config=/etc/twill/twilld.yaml
- --node-name=$(NODE_NAME)
{{- if .Values.uplink.nodeIP }}
- --iface=$(NODE_IP)
{{- end }}
{{- with .Values.extraArgs }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* Directories of the host are mounted under their own names: the plugin, which runs on the host, gets the same paths. */}}
{{- define "twill.mounts" -}}
- {name: config, mountPath: /etc/twill, readOnly: true}
- {name: cni-conf, mountPath: {{ .Values.host.cniConfDir }}}
- {name: run, mountPath: {{ .Values.host.runDir }}}
- {name: subnet, mountPath: {{ dir .Values.host.subnetFile }}}
- {name: sysctl, mountPath: /host/proc/sys/net}
{{- end }}

{{- define "twill.volumes" -}}
- name: config
  configMap: {name: twill}
- name: cni-conf
  hostPath: {path: {{ .Values.host.cniConfDir }}, type: DirectoryOrCreate}
- name: cni-bin
  hostPath: {path: {{ .Values.host.cniBinDir }}, type: DirectoryOrCreate}
- name: run
  hostPath: {path: {{ .Values.host.runDir }}, type: DirectoryOrCreate}
- name: subnet
  hostPath: {path: {{ dir .Values.host.subnetFile }}, type: DirectoryOrCreate}
- name: sysctl
  hostPath: {path: /proc/sys/net, type: Directory}
{{- end }}
