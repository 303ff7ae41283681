package page

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"github.com/twill-cni/twill/ctl/lab"
	"github.com/twill-cni/twill/ctl/lab/netns"
)

const objects = `
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec: {clusterIP: 10.96.0.7, selector: {app: lab}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: default}
spec: {podSelector: {matchLabels: {app: lab}}, policyTypes: [Ingress]}
`

func newLab(t *testing.T, backend string, family lab.Family) *lab.Lab {
	t.Helper()
	l, err := lab.New(lab.Options{Name: runName + backend, BinDir: binDir, Nodes: 3, PodsPerNode: 1, Proxy: "nftables", Family: family,
		Routing: lab.Routing{Backend: backend}, DaemonArgs: []string{"--policy=on", "--page=10280"}})
	must(t, err)
	t.Cleanup(func() {
		if err := l.Down(context.Background()); err != nil {
			t.Error(err)
		}
	})
	must(t, l.Up(t.Context()))
	return l
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// level is an expression for the colour of the edge between two nodes.
func level(a, b string) string {
	return fmt.Sprintf(`[...document.querySelectorAll("[data-edge]")].find((e) => e.dataset.edge.split(" ").sort().join() === "%s,%s")?.dataset.level`, a, b)
}

func TestPage(t *testing.T) {
	for backend, family := range map[string]lab.Family{lab.VXLAN: lab.DualStack, lab.BGP: lab.IPv4} {
		t.Run(backend, func(t *testing.T) { t.Parallel(); watch(t, newLab(t, backend, family)) })
	}
}

func watch(t *testing.T, l *lab.Lab) {
	node, pods := l.Nodes()[0], l.Pods()
	apply(t, l)
	b := open(t, "http://"+forward(t, node))
	b.until(t, "node1 is ready", `document.getElementById("health").textContent === "ready"`)
	for _, n := range []string{"node1", "node2", "node3"} {
		b.until(t, n+" is in the graph", fmt.Sprintf(`document.querySelector('[data-node="%s"]')`, n))
	}
	for _, e := range [][2]string{{"node1", "node2"}, {"node1", "node3"}, {"node2", "node3"}} {
		b.until(t, e[0]+" reaches "+e[1], level(e[0], e[1])+` === "good"`)
	}
	t.Run("table", func(t *testing.T) { table(t, b, l.Family()) })
	if l.Family() == lab.DualStack {
		t.Run("families", func(t *testing.T) { families(t, b, l) })
	}
	t.Run("search", func(t *testing.T) { search(t, b) })
	t.Run("trace", func(t *testing.T) { trace(t, b, pods) })
	t.Run("drops", func(t *testing.T) { drops(t, b, pods) })
	t.Run("fault", func(t *testing.T) { fault(t, b, l) })
	b.wellBehaved(t)
}

// table opens the table of peers, which is not drawn before. A peer has a row for each family.
func table(t *testing.T, b *browser, family lab.Family) {
	const rows = `document.querySelectorAll("#peers tbody tr").length`
	var drawn int
	b.run(t, chromedp.Evaluate(rows, &drawn))
	if drawn != 0 {
		t.Errorf("%d rows of a table that nobody has opened", drawn)
	}
	b.run(t, chromedp.Click("#table-box summary"))
	b.until(t, "both peers are in the table", rows+fmt.Sprintf(` === %d`, 2*len(colons(family))))
	for _, name := range []string{"node2", "node3"} {
		for _, colon := range colons(family) {
			b.until(t, name+" is good", row(name, colon, "good"))
		}
	}
	b.run(t, chromedp.Click("#table-box summary"))
}

// colons are, for each of the families, whether its addresses have a colon.
func colons(family lab.Family) []bool {
	if family == lab.DualStack {
		return []bool{false, true}
	}
	return []bool{family == lab.IPv6}
}

// row is an expression for a row of the table of peers: that of a node's address with or without a colon, of this colour.
func row(name string, colon bool, level string) string {
	return fmt.Sprintf(`[...document.querySelectorAll("#peers tbody tr")].some((r) => r.cells[0].textContent === %q && r.cells[1].textContent.includes(":") === %t && r.querySelector("td.%s"))`, name, colon, level)
}

// families takes IPv6 alone away from the way to node2, and gives it back: the edge is as bad as the worse family, and says which one that is.
func families(t *testing.T, b *browser, l *lab.Lab) {
	node2 := l.Nodes()[1]
	command(t, node2.Netns(), "nft", "add table ip6 fault; add chain ip6 fault input { type filter hook input priority 0; }; add rule ip6 fault input udp dport 10270 drop")
	b.run(t, chromedp.Click("#table-box summary"))
	b.until(t, "the way to node2 is red", level("node1", "node2")+` === "bad"`)
	b.until(t, "it is so by IPv6", `document.querySelector('[data-edge="node1 node2"]').getAttribute("aria-label").includes("by IPv6: does not answer")`)
	b.until(t, "the table's row of IPv6 is red", row("node2", true, "bad"))
	b.until(t, "that of IPv4 is not", row("node2", false, "good"))
	command(t, node2.Netns(), "nft", "delete table ip6 fault")
	b.until(t, "node2 is reached again", level("node1", "node2")+` !== "bad"`)
	b.run(t, chromedp.Click("#table-box summary"))
}

// command runs a program in a namespace.
func command(t *testing.T, in netns.Namespace, name string, args ...string) {
	t.Helper()
	if out, err := lab.Command(t.Context(), in, name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
}

func apply(t *testing.T, l *lab.Lab) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "objects.yaml")
	must(t, os.WriteFile(file, []byte(objects), 0o600))
	if out, err := exec.CommandContext(t.Context(), filepath.Join(binDir, "twillctl"), "apply", "-f", file, "--lab", l.Name()).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func search(t *testing.T, b *browser) {
	for _, c := range []struct{ text, kind, name string }{
		{"node3-p", "pod", "default/node3-pod1"},
		{"WEB", "service", "default/web"},
		{"10.96.0.7", "service", "default/web"},
	} {
		row := fmt.Sprintf(`document.querySelector('#found [data-kind="%s"][data-name="%s"]')`, c.kind, c.name)
		b.until(t, c.text+" finds "+c.name, row+` && document.querySelectorAll("#found [data-kind]").length === 1`, func() { typed(t, b, "search", c.text) })
	}
	b.run(t, chromedp.Click(`#found [data-kind="service"] button`))
	b.until(t, "the Service's three endpoints", `document.querySelectorAll("#detail button").length === 3`)
}

// typed puts a text into a field; a field that has it already is told nothing.
func typed(t *testing.T, b *browser, id, text string) {
	t.Helper()
	b.run(t, chromedp.Evaluate(fmt.Sprintf(`{ const f = document.getElementById(%q); if (f.value !== %q) { f.value = %q; f.dispatchEvent(new Event("input")); } }`, id, text, text), nil))
}

func trace(t *testing.T, b *browser, pods []*lab.Pod) {
	other := pods[2].Addrs()[0]
	typed(t, b, "to", other.String())
	b.until(t, "this node's pod can be chosen", `document.getElementById("from").value === "`+pods[0].Addrs()[0].String()+`"`)
	b.run(t, chromedp.Click("#trace button"))
	b.until(t, "a trace to "+other.String(), `document.querySelector('#way [data-hop="route"][data-state="ok"]') && document.querySelector('#way [data-hop="measured"].good')`)
	b.until(t, "where the other side is told", `document.getElementById("way").textContent.includes("What node3 holds, its own daemon says")`)
	typed(t, b, "to", "10.96.0.7")
	b.run(t, chromedp.Click("#trace button"))
	b.until(t, "a Service's address is explained", `document.getElementById("way").textContent.includes("is the Service default/web")`)
	b.expect = "/data/trace" // the browser's console tells of the answer's status
	typed(t, b, "to", other.String())
	b.run(t, chromedp.Click("#trace button"))
	b.until(t, "the trace again", `document.querySelector('#way [data-hop="route"]')`)
}

// drops sends packets to a pod of node1 that its policy refuses.
func drops(t *testing.T, b *browser, pods []*lab.Pod) {
	b.until(t, "a refused packet with its policy", `[...document.querySelectorAll("#drops tbody tr")].some((r) =>
		["ingress", "default/node1-pod1", "default/node2-pod1", "4711 UDP", "closed"].every((w) => r.textContent.includes(w)))`, func() {
		must(t, pods[1].Netns().Do(func() error {
			conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(pods[0].Addrs()[0], 4711)))
			if err != nil {
				return err
			}
			defer conn.Close()
			_, err = conn.Write([]byte("x"))
			return err
		}))
	})
}

// fault takes node3's cable out, and puts it back.
func fault(t *testing.T, b *browser, l *lab.Lab) {
	b.picture(t, l.Name()+"-well")
	cable := func(state string) { command(t, l.Underlay(), "ip", "link", "set", "port3", state) }
	cable("down")
	b.until(t, "the way to node3 is red", level("node1", "node3")+` === "bad"`)
	b.until(t, "that from node2, too", level("node2", "node3")+` === "bad"`)
	b.until(t, "that to node2 is not", level("node1", "node2")+` !== "bad"`)
	b.picture(t, l.Name()+"-light")
	b.run(t, emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: "dark"}}), chromedp.EmulateViewport(420, 900))
	b.picture(t, l.Name()+"-dark")
	cable("up")
	b.until(t, "node3 is reached again", level("node1", "node3")+` !== "bad"`)
}
