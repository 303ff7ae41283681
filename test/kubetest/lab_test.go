package kubetest

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/twill-cni/twill/ctl/lab"
)

// TestInALab has the API server on the underlay of a lab, kube-proxy on its first node, and a pod of the second node behind a Service.
func TestInALab(t *testing.T) {
	bin, err := filepath.Abs(cmp.Or(os.Getenv("TWILL_BIN"), "../../bin"))
	must(t, err)
	l, err := lab.New(lab.Options{Name: fmt.Sprintf("kubetest-%d", os.Getpid()), BinDir: bin, Nodes: 2, PodsPerNode: 1, Family: lab.DualStack})
	must(t, err)
	t.Cleanup(func() { must(t, l.Down(context.Background())) })
	must(t, l.Up(t.Context()))

	gateway, _ := l.UnderlayGateway()
	c := Start(t, Options{Namespace: l.Underlay().Path(), Addr: gateway})
	node := l.Nodes()[0]
	must(t, c.AddNode(t.Context(), Node{Name: node.Name, Addrs: node.Addrs()}))
	client, server := l.Pods()[0], l.Pods()[1]
	serve(t, server.Netns().Path(), "pod")
	StartKubeProxy(t, c, ProxyOptions{Node: node.Name, Namespace: node.Netns().Path()})
	addrs := server.Addrs()
	must(t, c.Apply(t.Context(), behind(addrs[0].String(), addrs[1].String())))
	for _, from := range []string{client.Netns().Path(), node.Netns().Path()} {
		until(t, from, "pod", clusterIPs...)
	}
}
