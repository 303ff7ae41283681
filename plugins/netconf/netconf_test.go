package netconf

import (
	"encoding/json"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/policy/gate"
)

// with returns a configuration that is valid but for the given top-level keys.
func with(keys string) []byte {
	doc := map[string]json.RawMessage{"cniVersion": []byte(`"1.0.0"`), "name": []byte(`"net"`), "type": []byte(`"twill"`),
		"ipam": []byte(`{"type":"twill-ipam"}`)}
	var more map[string]json.RawMessage
	if err := json.Unmarshal([]byte("{"+keys+"}"), &more); err != nil {
		panic(err)
	}
	for k, v := range more {
		doc[k] = v
	}
	out, err := json.Marshal(doc)
	if err != nil {
		panic(err)
	}
	return out
}

var ignoreRaw = cmp.Options{cmpopts.IgnoreFields(Config{}, "Raw"), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })}

func TestParse(t *testing.T) {
	base := func(change func(*Config)) *Config {
		c := &Config{CNIVersion: "1.0.0", Name: "net", Bridge: "cni0", Hairpin: true, RunDir: "/run/twill", IPAM: "twill-ipam"}
		change(c)
		return c
	}
	tests := []struct {
		name string
		keys string
		want *Config
	}{
		{"defaults", ``, base(func(*Config) {})},
		{"settings", `"bridge":"br7","mtu":1450,"hairpin":false,"runDir":"/var/run/x/"`, base(func(c *Config) {
			c.Bridge, c.MTU, c.Hairpin, c.RunDir = "br7", 1450, false, "/var/run/x"
		})},
		{"keys of the runtime", `"capabilities":{"ips":true},"args":{"cni":{"ips":["10.0.0.9"]}},"example.com/x":1,"cni.dev/y":[]`, base(func(*Config) {})},
		{"dns of the configuration", `"dns":{"nameservers":["192.0.2.53"],"domain":"x","search":["a"],"options":["ndots:5"]}`, base(func(c *Config) {
			c.DNS = DNS{Nameservers: []string{"192.0.2.53"}, Domain: "x", Search: []string{"a"}, Options: []string{"ndots:5"}}
		})},
		{"domain of the cluster", `"clusterDomain":"cluster.local"`, base(func(c *Config) { c.Cluster = "cluster.local" })},
		{"dns of the runtime wins over the cluster's", `"clusterDomain":"cluster.local","runtimeConfig":{"dns":{"servers":["192.0.2.54"]}}`,
			base(func(c *Config) { c.DNS = DNS{Nameservers: []string{"192.0.2.54"}} })},
		{"dns of the runtime wins", `"dns":{"nameservers":["192.0.2.53"]},"runtimeConfig":{"dns":{"servers":["192.0.2.54"],"searches":["b"]}}`, base(func(c *Config) {
			c.DNS = DNS{Nameservers: []string{"192.0.2.54"}, Search: []string{"b"}}
		})},
		{"mac of args", `"args":{"cni":{"mac":"02:00:00:00:00:01"}}`, base(func(c *Config) { c.MAC = kernel.MAC{2, 0, 0, 0, 0, 1} })},
		{"labels", `"args":{"cni":{"labels":[{"key":"app","value":"web"},{"key":"x.example/y","value":""}]}}`,
			base(func(c *Config) { c.Labels = map[string]string{"app": "web", "x.example/y": ""} })},
		{"ports", `"args":{"cni":{"ports":[{"name":"http","containerPort":8080,"protocol":"TCP"},{"name":"dns","containerPort":53},
			{"name":"dns","containerPort":53,"protocol":"udp"},{"name":"a-2-b-3-c-4-d-5","containerPort":65535,"protocol":"SCTP"}]}}`, base(func(c *Config) {
			c.Ports = []PodPort{{"http", 8080, TCP}, {"dns", 53, TCP}, {"dns", 53, UDP}, {"a-2-b-3-c-4-d-5", 65535, SCTP}}
		})},
		{"no ports", `"args":{"cni":{"ports":[]}}`, base(func(*Config) {})},
		{"ports null", `"args":{"cni":{"ports":null}}`, base(func(*Config) {})},
		{"mac of the runtime wins", `"args":{"cni":{"mac":"02:00:00:00:00:01"}},"runtimeConfig":{"mac":"02:00:00:00:00:02"}`,
			base(func(c *Config) { c.MAC = kernel.MAC{2, 0, 0, 0, 0, 2} })},
		{"bandwidth", `"runtimeConfig":{"bandwidth":{"ingressRate":1000,"ingressBurst":4294967295,"egressRate":2000}}`, base(func(c *Config) {
			c.Bandwidth = Bandwidth{Ingress: kernel.Rate{Bits: 1000, Burst: 1<<32 - 1}, Egress: kernel.Rate{Bits: 2000}}
		})},
		{"port mappings", `"runtimeConfig":{"portMappings":[{"hostPort":80,"containerPort":8080,"protocol":"tcp"},{"containerPort":1},
			{"hostPort":53,"containerPort":53,"protocol":"UDP","hostIP":"192.0.2.1"},{"hostPort":9,"containerPort":9,"protocol":"sctp","hostIP":"::"},
			{"hostPort":80,"containerPort":8081,"hostIP":"::ffff:192.0.2.1"}]}`, base(func(c *Config) {
			c.PortMappings = []PortMapping{{Protocol: TCP, HostPort: 80, ContainerPort: 8080},
				{Protocol: UDP, HostIP: netip.MustParseAddr("192.0.2.1"), HostPort: 53, ContainerPort: 53},
				{Protocol: SCTP, HostIP: netip.IPv6Unspecified(), HostPort: 9, ContainerPort: 9},
				{Protocol: TCP, HostIP: netip.MustParseAddr("192.0.2.1"), HostPort: 80, ContainerPort: 8081}}
		})},
		{"policy", `"policy":{"networks":["10.5.1.0/24","fd00:5:1::/64"],"cutMark":2147483648,"logGroup":7,"logRate":10,"logBurst":20}`, base(func(c *Config) {
			c.Policy = &gate.Config{NodePods: []netip.Prefix{netip.MustParsePrefix("10.5.1.0/24"), netip.MustParsePrefix("fd00:5:1::/64")},
				Bridge: DefaultBridge, CutMark: 1 << 31, LogGroup: 7, LogRate: 10, LogBurst: 20}
		})},
		{"policy without a log", `"policy":{"networks":["10.5.1.0/24"]}`, base(func(c *Config) {
			c.Policy = &gate.Config{NodePods: []netip.Prefix{netip.MustParsePrefix("10.5.1.0/24")}, Bridge: DefaultBridge}
		})},
		{"policy null", `"policy":null`, base(func(*Config) {})},
		{"prevResult", `"prevResult":{"cniVersion":"1.0.0"}`, base(func(c *Config) { c.PrevResult = json.RawMessage(`{"cniVersion":"1.0.0"}`) })},
		{"prevResult null", `"prevResult":null`, base(func(*Config) {})},
		{"valid attachments", `"cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"}]`, base(func(c *Config) {
			c.ValidAttachments = []kernel.PodOwner{{ContainerID: "a", IfName: "eth0"}}
		})},
		{"no valid attachments", `"cni.dev/valid-attachments":[]`, base(func(c *Config) { c.ValidAttachments = []kernel.PodOwner{} })},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := Parse(with(test.keys))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got, ignoreRaw); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestParseErrors(t *testing.T) {
	tests := []struct{ name, keys, want string }{
		{"unknown key", `"brigde":"cni0"`, "brigde: unknown key"},
		{"key in other letters", `"Bridge":"cni0"`, "Bridge: unknown key"},
		{"wrong plugin", `"type":"bridge"`, "type:"},
		{"no name", `"name":""`, "name:"},
		{"name with slash", `"name":"a/b"`, "name:"},
		{"no ipam", `"ipam":{}`, "ipam.type:"},
		{"ipam type is a path", `"ipam":{"type":"../x"}`, "ipam.type:"},
		{"bridge name too long", `"bridge":"abcdefghijklmnop"`, "bridge:"},
		{"bridge name empty", `"bridge":""`, "bridge:"},
		{"bridge name with space", `"bridge":"a b"`, "bridge:"},
		{"bridge name dots", `"bridge":".."`, "bridge:"},
		{"mtu too small", `"mtu":100`, "mtu:"},
		{"mtu negative", `"mtu":-1`, "mtu:"},
		{"mtu too large", `"mtu":70000`, "mtu:"},
		{"runDir relative", `"runDir":"x"`, "runDir:"},
		{"policy without networks", `"policy":{}`, "policy: networks:"},
		{"policy of another kind", `"policy":true`, "policy:"},
		{"policy with an unknown key", `"policy":{"networks":["10.5.1.0/24"],"cutmask":1}`, "policy:"},
		{"policy with a host's address", `"policy":{"networks":["10.5.1.1/24"]}`, "policy: networks:"},
		{"policy with half a network", `"policy":{"networks":["10.5.1.0"]}`, "policy:"},
		{"policy with a mapped network", `"policy":{"networks":["::ffff:10.5.1.0/120"]}`, "policy:"},
		{"policy with no network", `"policy":{"networks":[""]}`, "policy: networks:"},
		{"multicast mac", `"runtimeConfig":{"mac":"01:00:00:00:00:01"}`, "runtimeConfig.mac:"},
		{"long mac", `"args":{"cni":{"mac":"02:00:00:00:00:00:00:01"}}`, "args.cni.mac:"},
		{"label without a key", `"args":{"cni":{"labels":[{"value":"x"}]}}`, "args.cni.labels: label 0:"},
		{"label twice", `"args":{"cni":{"labels":[{"key":"a","value":"x"},{"key":"a","value":"y"}]}}`, `args.cni.labels: "a" is given twice`},
		{"ports of another kind", `"args":{"cni":{"ports":{"http":8080}}}`, "args.cni.ports: want a list"},
		{"port of another kind", `"args":{"cni":{"ports":["http"]}}`, "args.cni.ports[0]: want {"},
		{"port without a name", `"args":{"cni":{"ports":[{"name":"http","containerPort":1},{"containerPort":2}]}}`, "args.cni.ports[1].name: is missing;"},
		{"port null", `"args":{"cni":{"ports":[null]}}`, "args.cni.ports[0].name: is missing;"},
		{"port with an unknown key", `"args":{"cni":{"ports":[{"name":"a","containerPort":1,"hostPort":2}]}}`, "args.cni.ports[0]: want {"},
		{"port without a number", `"args":{"cni":{"ports":[{"name":"a"}]}}`, "args.cni.ports[0].containerPort: 0 is not between"},
		{"port too large", `"args":{"cni":{"ports":[{"name":"a","containerPort":65536}]}}`, "args.cni.ports[0].containerPort: 65536 is not between"},
		{"port negative", `"args":{"cni":{"ports":[{"name":"a","containerPort":-1}]}}`, "args.cni.ports[0].containerPort: -1 is not between"},
		{"port of ICMP", `"args":{"cni":{"ports":[{"name":"a","containerPort":1,"protocol":"icmp"}]}}`, "args.cni.ports[0].protocol:"},
		{"port twice", `"args":{"cni":{"ports":[{"name":"a","containerPort":1},{"name":"a","containerPort":2,"protocol":"tcp"}]}}`,
			"args.cni.ports[1]: a of tcp is given by ports[0] already; want a name once for each protocol"},
		{"257 ports", `"args":{"cni":{"ports":[` + strings.Repeat("0,", 256) + `0]}}`, "args.cni.ports: 257 ports are more than the 256"},
		{"host port too large", `"runtimeConfig":{"portMappings":[{"hostPort":65536,"containerPort":1}]}`, "runtimeConfig.portMappings[0].hostPort:"},
		{"no container port", `"runtimeConfig":{"portMappings":[{"hostPort":1}]}`, "runtimeConfig.portMappings[0].containerPort:"},
		{"protocol", `"runtimeConfig":{"portMappings":[{"hostPort":1,"containerPort":1,"protocol":"icmp"}]}`, "runtimeConfig.portMappings[0].protocol:"},
		{"host address", `"runtimeConfig":{"portMappings":[{"hostPort":1,"containerPort":1,"hostIP":"node"}]}`, "runtimeConfig.portMappings[0].hostIP:"},
		{"mapped twice", `"runtimeConfig":{"portMappings":[{"hostPort":1,"containerPort":1},{"hostPort":1,"containerPort":2,"protocol":"tcp"}]}`,
			"runtimeConfig.portMappings[1]: tcp * port 1 is mapped by portMappings[0] already"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := Parse(with(test.keys))
			if err == nil || !strings.HasPrefix(err.Error(), test.want) {
				t.Errorf("have error %v, want one that starts with %q", err, test.want)
			}
			if errors.Is(err, ErrSyntax) {
				t.Errorf("%v is called a syntax error", err)
			}
		})
	}
}

// Which names ports can have is what Kubernetes' API server says, too.
func TestPortNames(t *testing.T) {
	tests := map[string]bool{"http": true, "a": true, "0a": true, "a-b-c": true, "123456789012345": false, "12345678901234a": true, "abcdefghijklmnop": false,
		"": false, "80": false, "HTTP": false, "-a": false, "a-": false, "a--b": false, "a_b": false, "a.b": false, "ä": false, "a b": false}
	for name, want := range tests {
		if have := isPortName(name); have != want {
			t.Errorf("%q: have %t, want %t", name, have, want)
		}
	}
}

func TestParseSyntaxErrors(t *testing.T) {
	for _, text := range []string{``, `{`, `null`, `[]`, `"x"`, `{"name":1}`, `{"mtu":"1450"}`, `{"hairpin":"yes"}`,
		`{"runtimeConfig":{"bandwidth":{"ingressRate":-1}}}`, `{"cni.dev/valid-attachments":{}}`} {
		if _, err := Parse([]byte(text)); !errors.Is(err, ErrSyntax) {
			t.Errorf("%s: have error %v, want ErrSyntax", text, err)
		}
	}
}

// A configuration that another version accepted must not keep a pod from being removed.
func TestParseForRemovalIsLenient(t *testing.T) {
	got, err := ParseForRemoval(with(`"future":1,"mtu":7,"bridge":"","hairpin":"yes","dns":[],"runtimeConfig":{"mac":7,"portMappings":"all",
		"bandwidth":{"ingressRate":-1}},"args":null,"runDir":"/x"`))
	if err != nil {
		t.Fatal(err)
	}
	want := &Config{CNIVersion: "1.0.0", Name: "net", Bridge: "cni0", Hairpin: true, RunDir: "/x", IPAM: "twill-ipam"}
	if diff := cmp.Diff(want, got, ignoreRaw); diff != "" {
		t.Error(diff)
	}
}

func TestParseArgs(t *testing.T) {
	tests := []struct {
		name, text string
		want       Args
		err        string
	}{
		{name: "empty"},
		{name: "kubernetes", text: "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=p;K8S_POD_INFRA_CONTAINER_ID=c;K8S_POD_UID=u", want: Args{Pod: "ns/p", PodUID: "u"}},
		{name: "addresses", text: "IP=10.0.0.1/24,fd00::1;MAC=02:00:00:00:00:07", want: Args{
			IPs: []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")}, MAC: kernel.MAC{2, 0, 0, 0, 0, 7}}},
		{name: "unknown, ignored wherever that stands", text: "X=1;IgnoreUnknown=true"},
		{name: "unknown", text: "X=1", err: `unknown key "X"`},
		{name: "no pair", text: "X", err: "key=value"},
		{name: "bad address", text: "IP=x", err: "IP:"},
		{name: "bad mac", text: "MAC=x", err: "MAC:"},
		{name: "bad bool", text: "IgnoreUnknown=perhaps", err: "IgnoreUnknown:"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := ParseArgs(test.text)
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Fatalf("have error %v, want one about %q", err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add(with(`"mtu":1450`))
	f.Add(with(`"runtimeConfig":{"portMappings":[{"hostPort":80,"containerPort":8080,"protocol":"tcp","hostIP":"::1"}],"mac":"02:00:00:00:00:01"}`))
	f.Add(with(`"policy":{"networks":["10.5.1.0/24"],"cutMark":1}`))
	f.Add(with(`"cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"}]`))
	f.Add(with(`"args":{"cni":{"labels":[{"key":"a","value":"b"}],"ports":[{"name":"dns","containerPort":53,"protocol":"UDP"},{"name":"dns","containerPort":53}]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		strict, err := Parse(data)
		lenient, lenientErr := ParseForRemoval(data)
		if err != nil {
			return
		}
		if lenientErr != nil {
			t.Fatalf("accepted for ADD, but not for DEL: %v", lenientErr)
		}
		if strict.RunDir != lenient.RunDir || strict.Name != lenient.Name || strict.IPAM != lenient.IPAM {
			t.Fatalf("ADD and DEL read it differently:\n%+v\n%+v", strict, lenient)
		}
		if strict.MTU < 0 || strict.MTU > maxMTU || strict.RunDir[0] != '/' || len(strict.Bridge) > 15 {
			t.Fatalf("invalid settings got through: %+v", strict)
		}
		for _, m := range strict.PortMappings {
			if m.HostPort == 0 || m.ContainerPort == 0 {
				t.Fatalf("invalid mapping got through: %+v", m)
			}
		}
		for i, p := range strict.Ports {
			twice := slices.ContainsFunc(strict.Ports[:i], func(o PodPort) bool { return o.Name == p.Name && o.Protocol == p.Protocol })
			if len(strict.Ports) > maxPorts || !isPortName(p.Name) || p.ContainerPort == 0 || !slices.Contains([]Protocol{TCP, UDP, SCTP}, p.Protocol) || twice {
				t.Fatalf("invalid ports got through: %+v", strict.Ports)
			}
		}
	})
}

func FuzzParseArgs(f *testing.F) {
	f.Add("IgnoreUnknown=1;K8S_POD_NAME=p;IP=10.0.0.1/24,fd00::1;MAC=02:00:00:00:00:07")
	f.Fuzz(func(t *testing.T, s string) {
		args, err := ParseArgs(s)
		if err == nil && !args.MAC.IsZero() && !args.MAC.IsUnicast() {
			t.Fatalf("multicast address got through: %s", args.MAC)
		}
		for _, ip := range args.IPs {
			if err == nil && (!ip.IsValid() || ip.Is4In6()) {
				t.Fatalf("odd address got through: %s", ip)
			}
		}
	})
}
