package deploy

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
)

func TestLint(t *testing.T) {
	if err := helm(t).Lint(); err != nil {
		t.Error(err)
	}
}

func TestWrongValuesAreRefused(t *testing.T) {
	for _, c := range []struct{ values, want string }{
		{"netwrok.ipv4=10.0.0.0/8", "additional properties 'netwrok' not allowed"},
		{"network.ipv5=10.0.0.0/8", "at '/network': additional properties 'ipv5' not allowed"},
		{"backend=host-gw", "at '/backend': value must be one of 'vxlan', 'bgp'"},
		{"network.ipv4=10.0.0.0", "at '/network/ipv4': '10.0.0.0' does not match"},
		{"network.ipv4=10.0.0.0/33", "at '/network/ipv4': '10.0.0.0/33' does not match"},
		{"network.ipv4=10.0.0.256/8", "network.ipv4: 10.0.0.256/8 is no IPv4 network: 256 is more than 255"},
		{"network.ipv4=fd00::/48", "at '/network/ipv4'"},
		{"network.ipv6=10.0.0.0/8", "at '/network/ipv6'"},
		{"network.ipv6=fd00::/129", "at '/network/ipv6'"},
		{"network.ipv4=", "network.ipv4 and network.ipv6 are both empty: give at least one"},
		{"vxlan.vni=0", "at '/vxlan/vni': minimum: got 0, want 1"},
		{"vxlan.vni=10000,network.ipv6=fd00::/48", "vxlan.vni: with network.ipv6 it is at most 9999"},
		{"vxlan.port=70000", "at '/vxlan/port'"},
		{"bgp.config.as=65001", "bgp.config and bgp.passwordSecret are for the backend bgp"},
		{"bgp.passwordSecret=keys", "bgp.config and bgp.passwordSecret are for the backend bgp"},
		{"proxy.enabled=false,proxy.config.clusterCIDR=10.0.0.0/8", "proxy.config is for the service proxy, which proxy.enabled=false switches off"},
		{"policy.enabled=on", "at '/policy/enabled': got string, want boolean"},
		{"proxy.enabled=maybe", "at '/proxy/enabled': got string, want boolean"},
		{"kubernetes.apiServers={192.0.2.1}", "at '/kubernetes/apiServers/0': '192.0.2.1' does not match"},
		{"kubernetes.apiServers={https://192.0.2.1:6443}", "at '/kubernetes/apiServers/0'"},
		{"uplink.iface=eth0,uplink.nodeIP=true", "uplink: give one of iface, ifaceRegex and nodeIP"},
		{"log.level=trace", "at '/log/level': value must be one of 'debug', 'info', 'warn', 'error'"},
		{"podReleaseDelay=soon", "at '/podReleaseDelay'"},
		{"health.port=0", "at '/health/port'"},
		{"host.cniBinDir=opt/cni/bin", "at '/host/cniBinDir'"},
		{"host.hostLocalDir=relative", "at '/host/hostLocalDir'"},
		{"image.digest=abc", "at '/image/digest'"},
		{"image.pullPolicy=Sometimes", "at '/image/pullPolicy'"},
		{"updateStrategy.maxUnavailable=0", "at '/updateStrategy/maxUnavailable'"},
		{"extraCapabilities={CAP net admin}", "at '/extraCapabilities/0'"},
		{"extraArgs={proxy}", "at '/extraArgs/0'"},
		{"monitoring.enabled=true,monitoring.port=10270", "monitoring.port and health.port are the same"},
		{"monitoring.scrape=Probe", "at '/monitoring/scrape'"},
	} {
		t.Run(c.values, func(t *testing.T) {
			_, err := helm(t).Template(c.values)
			if err == nil {
				t.Fatal("it was accepted")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("have %v, want %q", err, c.want)
			}
		})
	}
}

func TestRights(t *testing.T) {
	always := []string{
		"create events.events.k8s.io", "list nodes", "patch events.events.k8s.io", "patch nodes/status", "watch nodes",
	}
	services := []string{
		"list endpointslices.discovery.k8s.io", "list services", "list servicecidrs.networking.k8s.io",
		"watch endpointslices.discovery.k8s.io", "watch services", "watch servicecidrs.networking.k8s.io",
	}
	policies := []string{
		"list clusternetworkpolicies.policy.networking.k8s.io", "list namespaces", "list networkpolicies.networking.k8s.io", "list pods",
		"watch clusternetworkpolicies.policy.networking.k8s.io", "watch namespaces", "watch networkpolicies.networking.k8s.io", "watch pods",
	}
	for _, c := range []struct {
		name   string
		values []string
		want   []string
	}{
		{"default", nil, slices.Concat(always, services)},
		{"policies", []string{"policy.enabled=true"}, slices.Concat(always, services, policies)},
		{"bgp", []string{"backend=bgp"}, slices.Concat(always, services)},
		{"no service proxy", []string{"proxy.enabled=false"}, always},
		{"taint", []string{"removeTaint=true"}, slices.Concat(always, services, []string{"patch nodes"})},
		{"monitoring", []string{"monitoring.enabled=true"}, slices.Concat(always, services)},
		{"cleanup", []string{"cleanup.enabled=true", "policy.enabled=true"}, always},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := render(t, c.values...)
			slices.Sort(c.want)
			if diff := cmp.Diff(c.want, o.rights()); diff != "" {
				t.Errorf("rights (-want +have):\n%s", diff)
			}
			if b := o.binding; b.RoleRef.Name != o.role.Name || len(b.Subjects) != 1 || b.Subjects[0].Name != o.account.Name ||
				b.Subjects[0].Namespace != o.account.Namespace {
				t.Errorf("the role %s is not bound to the ServiceAccount %s/%s alone", o.role.Name, o.account.Namespace, o.account.Name)
			}
		})
	}
}

func TestOwnNodeOnly(t *testing.T) {
	o := render(t, "namespace=net")
	if o.enforced.Spec.PolicyName != o.policy.Name || o.policy.Name == "" {
		t.Errorf("the policy %q is not in force: %q is", o.policy.Name, o.enforced.Spec.PolicyName)
	}
	if have := o.policy.Spec.MatchConditions[0].Expression; !strings.Contains(have, `"system:serviceaccount:net:twill"`) {
		t.Errorf("it speaks of another account: %s", have)
	}
	if o := render(t, "ownNodeOnly=false"); o.policy.Name != "" || o.enforced.Name != "" {
		t.Error("it cannot be switched off")
	}
}

// privileges is what a container may do beyond what any container may.
type privileges struct {
	Capabilities []corev1.Capability
	HostPaths    []string
}

func TestPrivileges(t *testing.T) {
	daemon := []string{
		"/etc/cni/net.d", "/proc/sys/net at /host/proc/sys/net", "/run/flannel", "/run/netns (read only)", "/run/twill",
		"/var/lib/cni/networks (read only)",
	}
	install := privileges{HostPaths: []string{"/opt/cni/bin"}}
	for _, c := range []struct {
		name   string
		values []string
		pod    string
		want   map[string]privileges
	}{
		{"vxlan", nil, "twill", map[string]privileges{
			"install": install,
			"twilld":  {[]corev1.Capability{"NET_ADMIN"}, daemon},
		}},
		{"bgp", []string{"backend=bgp"}, "twill", map[string]privileges{
			"install": install,
			"twilld":  {[]corev1.Capability{"NET_ADMIN", "NET_BIND_SERVICE"}, daemon},
		}},
		{"k3s", []string{"host.cniConfDir=/var/lib/rancher/k3s/agent/etc/cni/net.d", "host.cniBinDir=/var/lib/rancher/k3s/data/cni", "host.hostLocalDir="},
			"twill", map[string]privileges{
				"install": {HostPaths: []string{"/var/lib/rancher/k3s/data/cni"}},
				"twilld": {[]corev1.Capability{"NET_ADMIN"}, []string{
					"/proc/sys/net at /host/proc/sys/net", "/run/flannel", "/run/netns (read only)", "/run/twill",
					"/var/lib/rancher/k3s/agent/etc/cni/net.d",
				}},
			}},
		{"directories of another user", []string{"extraCapabilities={DAC_OVERRIDE}"}, "twill", map[string]privileges{
			"install": {[]corev1.Capability{"DAC_OVERRIDE"}, []string{"/opt/cni/bin"}},
			"twilld":  {[]corev1.Capability{"NET_ADMIN", "DAC_OVERRIDE"}, daemon},
		}},
		{"cleanup", []string{"cleanup.enabled=true"}, "twill-cleanup", map[string]privileges{
			"cleanup": {[]corev1.Capability{"NET_ADMIN"}, []string{
				"/etc/cni/net.d", "/opt/cni/bin", "/proc/sys/net at /host/proc/sys/net", "/run/flannel", "/run/twill",
			}},
			"done": {},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			pod := render(t, c.values...).daemon(t, c.pod)
			have := map[string]privileges{}
			for _, container := range slices.Concat(pod.InitContainers, pod.Containers) {
				have[container.Name] = privileges{unprivileged(t, container), hostPaths(pod, container)}
			}
			if diff := cmp.Diff(c.want, have); diff != "" {
				t.Errorf("privileges (-want +have):\n%s", diff)
			}
			if pod.HostPID || pod.HostIPC || !pod.HostNetwork {
				t.Error("of the host's namespaces, the network's is the one to be in")
			}
			if s := pod.SecurityContext; s == nil || s.SeccompProfile == nil || s.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
				t.Error("the runtime's seccomp profile is not in force")
			}
		})
	}
}

// unprivileged checks what holds of every container and returns the capabilities.
func unprivileged(t *testing.T, c corev1.Container) []corev1.Capability {
	t.Helper()
	s := c.SecurityContext
	if s == nil || s.Capabilities == nil || s.Privileged == nil || s.AllowPrivilegeEscalation == nil || s.ReadOnlyRootFilesystem == nil || s.RunAsUser == nil {
		t.Fatalf("%s: something is left to defaults", c.Name)
	}
	if *s.Privileged || *s.AllowPrivilegeEscalation || !*s.ReadOnlyRootFilesystem || s.ProcMount != nil {
		t.Errorf("%s has more rights than it needs: %v", c.Name, s)
	}
	if !slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) {
		t.Errorf("%s keeps capabilities", c.Name)
	}
	return s.Capabilities.Add
}

func TestDaemonSet(t *testing.T) {
	d := render(t).daemons["twill"]
	pod := d.Spec.Template.Spec
	for what, ok := range map[string]bool{
		"it is as important as the node":          pod.PriorityClassName == "system-node-critical",
		"it runs on Linux alone":                  pod.NodeSelector["kubernetes.io/os"] == "linux",
		"one node is updated at a time":           d.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable.String() == "1",
		"a node never has two daemons":            d.Spec.UpdateStrategy.RollingUpdate.MaxSurge.String() == "0",
		"it does not need the cluster's DNS":      pod.DNSPolicy == corev1.DNSDefault,
		"it gets no variables of Services":        pod.EnableServiceLinks != nil && !*pod.EnableServiceLinks,
		"it ends soon":                            *pod.TerminationGracePeriodSeconds <= 30,
		"its namespace is that of the system":     d.Namespace == "kube-system",
		"it asks for the account's token":         *pod.AutomountServiceAccountToken,
		"no other pod of the account has a token": !*render(t).account.AutomountServiceAccountToken,
	} {
		if !ok {
			t.Errorf("not so: %s", what)
		}
	}
	for _, effect := range []corev1.TaintEffect{corev1.TaintEffectNoSchedule, corev1.TaintEffectNoExecute} {
		if !slices.Contains(pod.Tolerations, corev1.Toleration{Operator: corev1.TolerationOpExists, Effect: effect}) {
			t.Errorf("a taint %s keeps it from the node", effect)
		}
	}
	c := container(t, pod, "twilld")
	for _, r := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		if c.Resources.Requests[r] != container(t, pod, "install").Resources.Requests[r] || c.Resources.Requests[r] == (corev1.ResourceList{})[r] {
			t.Errorf("%s: the pod asks for none, or for more than the daemon needs", r)
		}
	}
	if len(c.Resources.Limits) > 0 {
		t.Error("a limit would end the daemon of a large cluster")
	}
	for name, probe := range map[string]*corev1.Probe{"/healthz": c.LivenessProbe, "/readyz": c.ReadinessProbe, "/healthz ": c.StartupProbe} {
		if probe == nil || probe.HTTPGet.Path != strings.TrimSpace(name) || probe.HTTPGet.Host != "127.0.0.1" || probe.HTTPGet.Port.String() != "10270" {
			t.Errorf("probe of %s: %v", name, probe)
		}
	}
}

// Labels of the user must not break what finds the pods.
func TestSelectorsFindThePods(t *testing.T) {
	for _, name := range []string{"twill", "twill-cleanup"} {
		values := []string{"monitoring.enabled=true", `podLabels.app\.kubernetes\.io/name=other`, "podLabels.team=network"}
		if name == "twill-cleanup" {
			values = append(values, "cleanup.enabled=true")
		}
		o := render(t, values...)
		labels := o.daemons[name].Spec.Template.Labels
		if labels["team"] != "network" {
			t.Errorf("%s: the user's labels are missing: %v", name, labels)
		}
		selectors := []map[string]string{o.daemons[name].Spec.Selector.MatchLabels}
		if s := o.services["twill-metrics"]; s != nil {
			selectors = append(selectors, s.Spec.Selector)
		}
		for _, selector := range selectors {
			for key, value := range selector {
				if labels[key] != value {
					t.Errorf("%s: the selector wants %s=%s, the pods have %q", name, key, value, labels[key])
				}
			}
		}
	}
}

func TestImage(t *testing.T) {
	version := chartVersion(t)
	for _, c := range []struct{ values, want string }{
		{"", "docker.io/twill-cni/twill:" + version},
		{"image.repository=registry.example/net/twill", "registry.example/net/twill:" + version},
		{"image.tag=v9", "docker.io/twill-cni/twill:v9"},
		{"image.tag=v9,image.digest=sha256:" + strings.Repeat("ab", 32), "docker.io/twill-cni/twill@sha256:" + strings.Repeat("ab", 32)},
	} {
		pod := render(t, c.values).daemon(t, "twill")
		for _, container := range slices.Concat(pod.InitContainers, pod.Containers) {
			if container.Image != c.want {
				t.Errorf("%s: have image %s, want %s", c.values, container.Image, c.want)
			}
		}
	}
}

func chartVersion(t *testing.T) string {
	t.Helper()
	for line := range strings.Lines(read(t, "../../deploy/chart/twill/Chart.yaml")) {
		if version, ok := strings.CutPrefix(line, "appVersion: "); ok {
			return strings.TrimSpace(version)
		}
	}
	t.Fatal("Chart.yaml has no appVersion")
	return ""
}
