package kubetest

import (
	"bufio"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/bgp/gobgp/peertest"
)

const web = `
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  ipFamilyPolicy: PreferDualStack
  type: LoadBalancer
  ports: [{port: 80, targetPort: 8080}]
status:
  loadBalancer: {ingress: [{ip: 198.51.100.7}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web-1, namespace: shop}
spec:
  nodeName: a
  containers: [{name: web, image: web}]
`

type service struct {
	Spec struct {
		Type       string
		ClusterIPs []netip.Addr
	}
	Status struct {
		LoadBalancer struct{ Ingress []struct{ IP string } }
	}
}

func TestClusterCanBeUsedAtOnce(t *testing.T) {
	tests := []struct {
		name string
		addr string
		ips  []string // of the first services' networks
	}{
		{"IPv4", "192.0.2.1", []string{"10.96.0.0/16", "fd00:96::/112"}},
		{"IPv6", "2001:db8::1", []string{"fd00:96::/112", "10.96.0.0/16"}},
		{"loopback", "127.0.0.1", []string{"10.96.0.0/16", "fd00:96::/112"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			peertest.NewSegment(t, "192.0.2.1/24", "2001:db8::1/64")
			begin := time.Now()
			c := Start(t, Options{Addr: netip.MustParseAddr(tt.addr)})
			t.Logf("started in %v", time.Since(begin).Round(time.Millisecond))
			must(t, c.Apply(t.Context(), web))
			var got service
			must(t, c.Get(t.Context(), "/api/v1/namespaces/shop/services/web", &got))
			if len(got.Spec.ClusterIPs) != len(tt.ips) {
				t.Fatalf("the Service has the addresses %v", got.Spec.ClusterIPs)
			}
			for i, ip := range got.Spec.ClusterIPs {
				if !netip.MustParsePrefix(tt.ips[i]).Contains(ip) {
					t.Errorf("address %d is %v, outside of %s", i, ip, tt.ips[i])
				}
			}
			if in := got.Status.LoadBalancer.Ingress; len(in) != 1 || in[0].IP != "198.51.100.7" {
				t.Errorf("the Service's status has the addresses %v", in)
			}
		})
	}
}

func TestObjects(t *testing.T) {
	c := Start(t, Options{Addr: netip.MustParseAddr("127.0.0.1")})
	ctx := t.Context()
	t.Run("node", func(t *testing.T) { testNode(t, c) })
	t.Run("applied twice", func(t *testing.T) {
		must(t, c.Apply(ctx, web))
		must(t, c.Apply(ctx, strings.NewReplacer("LoadBalancer", "NodePort", "[{ip: 198.51.100.7}]", "[]").Replace(web)))
		var got service
		must(t, c.Get(ctx, "/api/v1/namespaces/shop/services/web", &got))
		if got.Spec.Type != "NodePort" {
			t.Errorf("the type is %s", got.Spec.Type)
		}
	})
	t.Run("created twice", func(t *testing.T) {
		must(t, c.Create(ctx, "{apiVersion: v1, kind: ConfigMap, metadata: {name: once}}"))
		if err := c.Create(ctx, "{apiVersion: v1, kind: ConfigMap, metadata: {name: once}}"); err == nil || !strings.Contains(err.Error(), "AlreadyExists") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("deleted twice", func(t *testing.T) {
		manifest := web[strings.Index(web, "---"):]
		for range 2 {
			must(t, c.Delete(ctx, manifest))
		}
		for _, path := range []string{"services/web", "pods/web-1"} {
			if _, err := c.Do(ctx, Request{Path: "/api/v1/namespaces/shop/" + path}); !IsNotFound(err) {
				t.Errorf("%s: %v", path, err)
			}
		}
	})
	t.Run("refused", func(t *testing.T) {
		for manifest, want := range map[string]string{
			"{apiVersion: v1, kind: Service, metadata: {name: bad}, spec: {ports: []}}": "spec.ports",
			"{apiVersion: v1, kind: Servize, metadata: {name: bad}}":                    "no kind Servize",
			"{apiVersion: v1, kind: Service}":                                           "lacks",
			"{":                                                                         "read the manifest",
		} {
			if err := c.Apply(ctx, manifest); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v", manifest, err)
			}
		}
	})
	t.Run("kubectl", func(t *testing.T) {
		out, err := c.Kubectl(ctx, "get", "namespace", "shop", "-o", "jsonpath={.metadata.name}")
		if err != nil || out != "shop" {
			t.Errorf("kubectl printed %q, %v", out, err)
		}
		if _, err := c.Kubectl(ctx, "get", "namespace", "nowhere"); err == nil || !strings.Contains(err.Error(), `"nowhere" not found`) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a user's rights", func(t *testing.T) { testRights(t, c) })
	t.Run("a service account's token", func(t *testing.T) { testToken(t, c) })
}

func testNode(t *testing.T, c *Cluster) {
	n := Node{Name: "a", Labels: map[string]string{"topology.kubernetes.io/zone": "z1"},
		Addrs:    []netip.Addr{netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("2001:db8::2")},
		PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("fd00:244:0:1::/64")}}
	for range 2 {
		must(t, c.AddNode(t.Context(), n))
	}
	n.Addrs = n.Addrs[:1]
	must(t, c.AddNode(t.Context(), n))
	out, err := c.Kubectl(t.Context(), "get", "node", "a", "-o",
		`jsonpath={.spec.podCIDRs[*]} {.status.addresses[*].address} {.metadata.labels['topology\.kubernetes\.io/zone']} {.spec.taints}`)
	if want := "10.244.1.0/24 fd00:244:0:1::/64 a 192.0.2.2 z1 "; err != nil || out != want {
		t.Errorf("the node is %q, %v; want %q", out, err, want)
	}
}

func testRights(t *testing.T, c *Cluster) {
	for _, tt := range []struct {
		user   string
		groups []string
		want   string
	}{
		{user: "nobody", want: "no"},
		{user: "system:kube-proxy", want: "yes"},
		{user: "somebody", groups: []string{"system:masters"}, want: "yes"},
	} {
		file, err := c.Kubeconfig(tt.user, tt.groups...)
		must(t, err)
		out, _ := c.Kubectl(t.Context(), "--kubeconfig", file, "auth", "can-i", "list", "services") // "no" is an error, too
		if strings.TrimSpace(out) != tt.want {
			t.Errorf("may %s of %v list services: %q, want %s", tt.user, tt.groups, out, tt.want)
		}
	}
}

func testToken(t *testing.T, c *Cluster) {
	must(t, c.Apply(t.Context(), "{apiVersion: v1, kind: ServiceAccount, metadata: {name: twill, namespace: kube-system}}"))
	token, err := c.Kubectl(t.Context(), "create", "token", "-n", "kube-system", "twill")
	must(t, err)
	name, err := c.Kubectl(t.Context(), "--kubeconfig=/dev/null", "--server="+c.URL(), "--certificate-authority="+filepath.Join(c.dir, "ca.crt"),
		"--token="+token, "auth", "whoami", "-o", "jsonpath={.status.userInfo.username}")
	if want := "system:serviceaccount:kube-system:twill"; err != nil || name != want {
		t.Errorf("the token is that of %q, %v; want %s", name, err, want)
	}
}

func TestRestartKeepsTheData(t *testing.T) {
	c := Start(t, Options{Addr: netip.MustParseAddr("127.0.0.1")})
	must(t, c.Apply(t.Context(), web))
	var before, after service
	must(t, c.Get(t.Context(), "/api/v1/namespaces/shop/services/web", &before))
	c.Kill()
	if err := c.Get(t.Context(), "/api/v1/namespaces/shop/services/web", &after); err == nil {
		t.Fatal("a killed API server answers")
	}
	begin := time.Now()
	must(t, c.Restart(t.Context()))
	t.Logf("started again in %v", time.Since(begin).Round(time.Millisecond))
	must(t, c.Get(t.Context(), "/api/v1/namespaces/shop/services/web", &after))
	if diff := cmp.Diff(before, after, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("the Service has changed: %s", diff)
	}
	must(t, c.Apply(t.Context(), web))
}

func TestLaunchFails(t *testing.T) {
	tests := []struct {
		name    string
		options Options
		want    string
	}{
		{"no address", Options{}, "no address"},
		{"another family", Options{Addr: netip.MustParseAddr("127.0.0.1"), ServiceCIDRs: []netip.Prefix{defaultServicesV6}}, "family"},
		{"no programs", Options{Addr: netip.MustParseAddr("127.0.0.1"), Programs: "/nowhere"}, "make kube"},
		{"no namespace", Options{Addr: netip.MustParseAddr("127.0.0.1"), Namespace: "/nowhere"}, "/nowhere"},
		{"an unknown flag", Options{Addr: netip.MustParseAddr("127.0.0.1"), Args: []string{"--nonsense"}}, "unknown flag: --nonsense"},
		{"an address of nobody", Options{Addr: netip.MustParseAddr("192.0.2.77")}, "cannot assign requested address"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("TMPDIR", t.TempDir())
			c, err := Launch(t.Context(), tt.options)
			if err == nil {
				c.Close()
				t.Fatal("it started")
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if left, err := os.ReadDir(os.TempDir()); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

const launchForParent = "KUBETEST_LAUNCH"

// TestProcessesEndWithAKilledTest starts a cluster in a process that is killed. Its files are gone after the next one.
func TestProcessesEndWithAKilledTest(t *testing.T) {
	if os.Getenv(launchForParent) != "" {
		c, err := Launch(context.Background(), Options{Addr: netip.MustParseAddr("127.0.0.1"), Port: 7443})
		must(t, err)
		fmt.Printf("\npids %d %d\n", c.etcd.cmd.Process.Pid, c.PID())
		select {}
	}
	t.Setenv("TMPDIR", t.TempDir())
	child := exec.Command("/proc/self/exe", "-test.run", "^"+t.Name()+"$")
	child.Env = append(os.Environ(), launchForParent+"=1")
	child.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := child.StdoutPipe()
	must(t, err)
	must(t, child.Start())
	var etcd, server int
	for lines := bufio.NewScanner(out); server == 0 && lines.Scan(); {
		_, _ = fmt.Sscanf(lines.Text(), "pids %d %d", &etcd, &server) // other lines are not ours
	}
	must(t, child.Process.Kill())
	_ = child.Wait() // it was killed
	if server == 0 {
		t.Fatal("the child started no cluster")
	}
	for _, pid := range []int{etcd, server} {
		peertest.Eventually(t, fmt.Sprintf("process %d ends", pid), patience, func() bool { return ended(pid) })
	}
	sweep() // as the next cluster does
	if left, err := os.ReadDir(os.TempDir()); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// ended reports whether a process is gone, or has ended and waits for a parent to ask.
func ended(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(text), ") Z ")
}
