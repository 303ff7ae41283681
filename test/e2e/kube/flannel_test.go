package kube

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/test/kubetest"
)

const (
	flannelNamespace = "kube-flannel"
	hostPort         = 8085                         // of a pod on the first machine
	hostLocal        = "/var/lib/cni/networks/cbr0" // addresses that are given out
)

// moving is a cluster that moves from flannel's DaemonSet to Twill's.
type moving struct {
	*rig
	page  page
	load  *traffic                  // among pods of flannel's time
	fresh map[string]standing       // pods that Twill attached, by machine or what they are for
	kept  map[string]string         // what each machine keeps, as flannel left it
	said  map[string]map[string]any // flannel's annotations of the Nodes
	out   *departures               // from pods of flannel's time
}

// TestFromFlannel does what docs/moving-from-flannel.md says for DaemonSets: there, back on one node, and there again. Packets between pods, and new
// connections to outside, are sent all the while: none is lost, none is without its node's address. flanneld is the real one; of its CNI plugin, which
// has others do the work, there is a script that does the same (testdata/flannel.sh). Services are kube-proxy's before and after. Each
// step needs the one before.
func TestFromFlannel(t *testing.T) {
	if testing.Short() {
		t.Skip("takes too long for -short")
	}
	m := startMoving(t)
	inOrder(t, m,
		step[*moving]{"prepare", movePrepare},
		step[*moving]{"there", moveThere},
		step[*moving]{"back", moveBack},
		step[*moving]{"there again", moveAgain},
		step[*moving]{"without flannel", moveFinish},
		step[*moving]{"without its pods", moveForget},
	)
}

// peer returns a program of another project.
func peer(name string) string {
	return filepath.Join(cmp.Or(os.Getenv("TWILL_PEERS"), repository(".cache/peers")), name)
}

// flannelImage writes an archive of the image that testdata/kube-flannel.yaml names.
func flannelImage(t testing.TB) string {
	t.Helper()
	flanneld, err := filepath.Abs(peer("flannel"))
	must(t, err)
	image := kubetest.Image{
		Name:     "docker.io/local/flannel:test",
		Files:    map[string]string{"/flannel": "testdata/flannel.sh"},
		Links:    map[string]string{"/opt/bin/flanneld": "/usr/bin/flannel"},
		Programs: []string{flanneld, "iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore"},
		Busybox:  true,
	}
	extensions, err := filepath.Glob("/usr/lib/*/xtables/*.so")
	must(t, err)
	for _, file := range extensions {
		image.Files[file] = file
	}
	archive := filepath.Join(t.TempDir(), "flannel.tar")
	must(t, kubetest.WriteImages(archive, image))
	return archive
}

// startMoving starts a site with flannel and kube-proxy, two pods on each machine, and traffic among them.
func startMoving(t *testing.T) *moving {
	t.Helper()
	r := bare(t, "vxlan", kubetest.SiteOptions{Kubelet: impatient, Archives: []string{flannelImage(t)}, Prepare: func(m *kubetest.Machine) error {
		return m.Install("/opt/cni/bin", peer("bridge"), peer("host-local"), peer("portmap"))
	}})
	m := &moving{rig: r, page: open(t, "docs/moving-from-flannel.md", "deploy/chart/twill", repository("deploy/chart/twill")),
		fresh: map[string]standing{}, kept: map[string]string{}, said: map[string]map[string]any{}}
	t.Cleanup(func() { m.explainFlannel(t) })
	for _, machine := range r.Machines {
		kubetest.StartKubeProxy(t, r.Cluster, kubetest.ProxyOptions{Node: machine.Name(), Namespace: machine.Namespace()})
	}
	manifests, err := os.ReadFile("testdata/kube-flannel.yaml")
	must(t, err)
	begin := time.Now()
	must(t, r.Cluster.Apply(t.Context(), string(manifests)))
	for _, machine := range r.Machines {
		must(t, r.Cluster.AwaitReady(t.Context(), machine.Name()))
	}
	r.stand(t)
	port := server("port", r.Machines[0])
	container(port)["ports"] = []fields{{"containerPort": 8080, "hostPort": hostPort}}
	r.pods = append(r.pods, r.run(t, port)...)
	r.within(t, enough, r.reachable)
	t.Logf("pods reach each other %v after flannel's manifest was applied", since(begin))
	for _, machine := range r.Machines {
		m.kept[machine.Name()], err = keeps(t.Context(), machine)
		must(t, err)
		m.said[machine.Name()], err = m.annotations(t.Context(), machine)
		must(t, err)
	}
	m.load = r.load(t)
	m.out = r.depart(t, r.pods[:len(r.Machines)])
	return m
}

func (m *moving) explainFlannel(t testing.TB) {
	if !t.Failed() {
		return
	}
	out, err := m.Cluster.Kubectl(context.Background(), "-n", flannelNamespace, "logs", "-l", "app=flannel", "--all-containers", "--prefix", "--tail=40")
	t.Logf("logs of flannel: %v\n%s", err, out)
}

// do runs a command of the page where the operator has a checkout. No word in them has a space.
func (m *moving) do(t testing.TB, command string, more ...string) {
	t.Helper()
	begin := time.Now()
	words := append(strings.Fields(strings.ReplaceAll(command, "'", "")), more...)
	if words[0] == "helm" {
		m.helm(t, words[1:]...)
	} else {
		m.kubectl(t, words[1:]...)
	}
	t.Logf("%v: %s", since(begin), strings.Join(words, " "))
}

// on runs a command of the page on a machine.
func (m *moving) on(t testing.TB, machine *kubetest.Machine, command string) {
	t.Helper()
	begin := time.Now()
	_, err := run(t.Context(), machine, command)
	must(t, err)
	t.Logf("%v on %s: %s", since(begin), machine.Name(), command)
}

// keeps returns what a machine has from flannel, and keeps: the devices, the subnets. The MTU may become smaller.
func keeps(ctx context.Context, machine *kubetest.Machine) (string, error) {
	return run(ctx, machine, `for link in flannel.1 flannel-v6.1 cni0; do echo $link $(cat /sys/class/net/$link/ifindex /sys/class/net/$link/address); done
		grep -v MTU /run/flannel/subnet.env | sort`)
}

// annotations returns flannel's, by which nodes know of each other. Keys of an object in them are in any order.
func (m *moving) annotations(ctx context.Context, machine *kubetest.Machine) (map[string]any, error) {
	n, err := m.node(ctx, machine)
	if err != nil {
		return nil, err
	}
	said := map[string]any{}
	for key, value := range n.Metadata.Annotations {
		if !strings.HasPrefix(key, "flannel.alpha.coreos.com/") {
			continue
		}
		var data any
		if json.Unmarshal([]byte(value), &data) != nil {
			data = value
		}
		if data != nil { // flannel's word for none is null
			said[key] = data
		}
	}
	if len(said) == 0 {
		return nil, fmt.Errorf("%s has no annotations of flannel", machine.Name())
	}
	return said, nil
}

// same checks that nothing is another one than flannel left.
func (m *moving) same(t testing.TB, machine *kubetest.Machine) {
	t.Helper()
	kept, err := keeps(t.Context(), machine)
	must(t, err)
	if diff := gocmp.Diff(m.kept[machine.Name()], kept); diff != "" {
		t.Errorf("%s has other devices or subnets (-before +after):\n%s", machine.Name(), diff)
	}
	said, err := m.annotations(t.Context(), machine)
	must(t, err)
	if diff := gocmp.Diff(m.said[machine.Name()], said); diff != "" {
		t.Errorf("%s says something else (-before +after):\n%s", machine.Name(), diff)
	}
}

// everybody checks that all pods reach all, those of flannel's time and others, and that the host port is served while its pod is there.
func (m *moving) everybody(t testing.TB) {
	t.Helper()
	pods := m.pods
	for _, p := range m.fresh {
		pods = append(pods[:len(pods):len(pods)], p)
	}
	must(t, each(pods, func(_ int, from standing) error { return m.ask(t.Context(), from.name, everyone(from, pods)...) }))
	if len(m.pods) > 0 {
		must(t, m.askOutside(t.Context(), probe{url(m.Machines[0].Addrs()[0], hostPort, "/hostname"), "port"}))
	}
}

// dualStack is what the page says of it.
var dualStack = []string{"--set", "network.ipv6=fd00:244::/56"}

func movePrepare(t *testing.T, m *moving) {
	for _, begin := range []string{"kubectl label nodes --all flannel=yes", "kubectl -n kube-flannel patch"} {
		m.do(t, m.page.command(t, begin))
	}
	m.do(t, m.page.command(t, "helm install"), dualStack...)
	m.everybody(t)
}

// toTwill moves a machine.
func (m *moving) toTwill(t *testing.T, machine *kubetest.Machine) {
	t.Helper()
	begin := time.Now()
	m.label(t, machine, "twill=yes")
	m.on(t, machine, m.page.command(t, "until [ -e /etc/cni/net.d/10-twill"))
	m.label(t, machine, "flannel-")
	m.on(t, machine, m.page.command(t, "rm /etc/cni/net.d/10-flannel"))
	m.within(t, enough, func(ctx context.Context) error { return m.leftBy(ctx, machine) })
	t.Logf("%s has moved after %v", machine.Name(), since(begin))
	m.same(t, machine)
	fresh := m.add(t, server("fresh-"+machine.Name(), machine))
	m.fresh[machine.Name()] = fresh
	_, err := run(t.Context(), machine, "ls /run/twill/ipam/twill/addresses/"+fresh.addrs[0].String())
	must(t, err)
	m.everybody(t)
}

// label runs the page's command that gives a node these labels.
func (m *moving) label(t *testing.T, machine *kubetest.Machine, labels string) {
	t.Helper()
	m.do(t, strings.ReplaceAll(m.page.command(t, "kubectl label node NODE "+labels), "NODE", machine.Name()))
}

// add makes a pod that outlives the step.
func (m *moving) add(t *testing.T, pod fields) standing {
	t.Helper()
	must(t, m.Cluster.Apply(t.Context(), manifest(t, pod)))
	return m.running(t, pod["metadata"].(fields)["name"].(string))[0]
}

// leftBy returns nil when flannel has left a machine.
func (m *moving) leftBy(ctx context.Context, machine *kubetest.Machine) error {
	pods, err := m.Cluster.Kubectl(ctx, "-n", flannelNamespace, "get", "pods", "-o", "name", "--field-selector", "spec.nodeName="+machine.Name())
	if err != nil {
		return err
	}
	rules, err := run(ctx, machine, "{ iptables-save; ip6tables-save; } | grep -e '-A.*FLANNEL'; :") // empty chains stay
	if err == nil && (pods != "" || rules != "") {
		err = fmt.Errorf("%s still has pods %s and rules\n%s", machine.Name(), pods, rules)
	}
	return err
}

func moveThere(t *testing.T, m *moving) {
	for _, machine := range m.Machines {
		m.toTwill(t, machine)
	}
}

// moveBack moves the first machine back: pods of flannel's time stay, those that Twill attached go before.
func moveBack(t *testing.T, m *moving) {
	machine := m.Machines[0]
	fresh := m.fresh[machine.Name()]
	listed, err := run(t.Context(), machine, m.page.command(t, "cat /run/twill/attachments"))
	must(t, err)
	if !strings.Contains(listed, fresh.name) || strings.Contains(listed, m.pods[0].name) {
		t.Errorf("Twill's own pods on %s are said to be %s, want %s alone", machine.Name(), listed, fresh.name)
	}
	m.kubectl(t, "delete", "pod", fresh.name)
	m.gone(t, fresh.name)
	delete(m.fresh, machine.Name())
	m.label(t, machine, "flannel=yes twill-")
	m.on(t, machine, m.page.command(t, "until [ -e /etc/cni/net.d/10-flannel"))
	for _, save := range []string{"iptables-save", "ip6tables-save"} {
		m.within(t, enough, func(ctx context.Context) error {
			_, err := run(ctx, machine, save+" -t nat | grep -e '-A FLANNEL-POSTRTG.*MASQUERADE'")
			return err
		})
	}
	m.on(t, machine, m.page.command(t, "nft delete table"))
	m.same(t, machine)
	again := m.add(t, server("again", machine))
	m.pods = append(m.pods, again)
	_, err = run(t.Context(), machine, "ls "+hostLocal+"/"+again.addrs[0].String())
	must(t, err)
	m.everybody(t)
}

func moveAgain(t *testing.T, m *moving) { m.toTwill(t, m.Machines[0]) }

func moveFinish(t *testing.T, m *moving) {
	m.do(t, m.page.command(t, "helm upgrade"), dualStack...)
	m.serving(t)
	for _, begin := range []string{"kubectl delete namespace", "kubectl delete clusterrole", "kubectl label nodes --all twill-"} {
		m.do(t, m.page.command(t, begin))
	}
	if selector := m.kubectl(t, "-n", namespace, "get", "daemonset", daemonSet, "-o", "jsonpath={.spec.template.spec.nodeSelector}"); strings.Contains(selector, "twill") {
		t.Errorf("Twill is for nodes with the labels %s, want all", selector)
	}
	m.load.whole(t)
	m.out.masqueraded(t)
	m.everybody(t)
	for _, machine := range m.Machines {
		m.same(t, machine)
	}
	testConnectivity(t, m.rig)
}

// moveForget removes the pods of flannel's time. Twill's plugin does it; what flannel's plugins had noted of them stays until somebody removes it.
func moveForget(t *testing.T, m *moving) {
	args := []string{"delete", "pod"}
	for _, p := range m.pods {
		args = append(args, p.name)
	}
	m.kubectl(t, args...)
	m.gone(t, args[2:]...)
	for _, p := range m.pods {
		_, err := run(t.Context(), p.machine, "ls "+hostLocal+"/"+p.addrs[0].String())
		must(t, err)
	}
	m.pods = nil
	for _, machine := range m.Machines {
		m.on(t, machine, m.page.command(t, "rm -r /var/lib/cni"))
	}
	m.on(t, m.Machines[0], m.page.command(t, "iptables -t nat -F"))
	port := server("fresh-port", m.Machines[0])
	container(port)["ports"] = []fields{{"containerPort": 8080, "hostPort": hostPort}}
	m.fresh["port"] = m.add(t, port)
	must(t, m.askOutside(t.Context(), probe{url(m.Machines[0].Addrs()[0], hostPort, "/hostname"), "fresh-port"}))
	m.noLeaks(t)
	for _, machine := range m.Machines {
		ports, err := run(t.Context(), machine, "ls /sys/class/net/cni0/brif")
		must(t, err)
		want := 0
		for _, p := range m.fresh {
			if p.machine == machine {
				want++
			}
		}
		if len(strings.Fields(ports)) != want {
			t.Errorf("cni0 of %s has the ports %s, want %d", machine.Name(), ports, want)
		}
	}
	m.everybody(t)
}
