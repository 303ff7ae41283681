package page

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"github.com/twill-cni/twill/ctl/lab"
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

func newLab(t *testing.T, backend string) *lab.Lab {
	t.Helper()
	l, err := lab.New(lab.Options{Name: runName + backend, BinDir: binDir, Nodes: 3, PodsPerNode: 1, Proxy: "nftables",
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
	for _, backend := range []string{lab.VXLAN, lab.BGP} {
		t.Run(backend, func(t *testing.T) { t.Parallel(); watch(t, newLab(t, backend)) })
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
	t.Run("table", func(t *testing.T) { table(t, b) })
	t.Run("search", func(t *testing.T) { search(t, b) })
	t.Run("trace", func(t *testing.T) { trace(t, b, pods) })
	t.Run("drops", func(t *testing.T) { drops(t, b, pods) })
	t.Run("fault", func(t *testing.T) { fault(t, b, l) })
	b.wellBehaved(t)
}

// table opens the table of peers, which is not drawn before.
func table(t *testing.T, b *browser) {
	const rows = `document.querySelectorAll("#peers tbody tr").length`
	var drawn int
	b.run(t, chromedp.Evaluate(rows, &drawn))
	if drawn != 0 {
		t.Errorf("%d rows of a table that nobody has opened", drawn)
	}
	b.run(t, chromedp.Click("#table-box summary"))
	b.until(t, "both peers are in the table", rows+` === 2`)
	for _, name := range []string{"node2", "node3"} {
		b.until(t, name+" is good", `[...document.querySelectorAll("#peers tbody tr")].some((r) => r.cells[0].textContent === "`+name+`" && r.querySelector("td.good"))`)
	}
	b.run(t, chromedp.Click("#table-box summary"))
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
	cable := func(state string) {
		var stderr bytes.Buffer
		cmd := lab.Command(t.Context(), l.Underlay(), "ip", "link", "set", "port3", state)
		cmd.Stderr = &stderr
		if err := cmd.Run(); err != nil {
			t.Fatalf("%v: %s", err, strings.TrimSpace(stderr.String()))
		}
	}
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
