package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/twill-cni/twill/ctl/lab"
)

// What is wrong in a node's record is left out and said, whether the daemon runs already or starts with it; all the rest counts, and the mended
// record does at once.
func TestBGPNodeRecordThatIsWrong(t *testing.T) {
	t.Parallel()
	const wrong, right, other = `{"bgp":{"as":0}}`, `{"bgp":{"podSubnets":{"communities":["64512:7"]}}}`, `{"bgp":{"podSubnets":{"communities":["64512:8"]}}}`
	l := upBGP(t, lab.Options{Nodes: 2, PodsPerNode: 1})
	node, peer := l.Nodes()[0], l.Nodes()[1]
	key, subnet := "/coreos.com/network/nodes/"+node.Name, subnetOf(t, l, node)
	named := func() error {
		shown := twillctl(t, "bgp", "peers", "--lab-node", node.Name, "--name", l.Name())
		text, err := node.DaemonLog()
		for _, said := range []string{shown.stdout, text} {
			if !strings.Contains(said, "record of node "+node.Name) || !strings.Contains(said, "as: have 0") {
				err = errors.Join(err, fmt.Errorf("it does not name the key:\n%s", said))
			}
		}
		return err
	}

	must(t, node.StopDaemon(t.Context()))
	put(t, l, key, wrong)
	must(t, node.StartDaemon())
	must(t, node.Ready(t.Context()))
	within(t, enough, named)
	established(t, node, 1)
	must(t, reachable(t, l))
	put(t, l, key, right)
	saysLine(t, l, peer, subnet, "heard from", "64512:7")
	if shown := twillctl(t, "bgp", "peers", "--lab-node", node.Name, "--name", l.Name()); strings.Contains(shown.stdout, "record") {
		t.Errorf("the record is right, and it says\n%s", shown.stdout)
	}

	put(t, l, key, wrong)
	within(t, enough, named)
	must(t, node.SetBGPConfig([]byte("announce: [{prefix: 10.244.250.0/24}]\n"))) // the file counts all the same
	within(t, enough, hasRoute(t, peer, "10.244.250.0/24", true))
	saysLine(t, l, peer, subnet, "heard from", "64512:7")
	put(t, l, key, other)
	saysLine(t, l, peer, subnet, "heard from", "64512:8")
	for _, s := range sessions(t, peer) {
		if s.Flaps > 1 { // one: the daemon was stopped
			t.Errorf("the session with %s went down %d times", s.Name, s.Flaps)
		}
	}
}
