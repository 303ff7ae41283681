package kubetest

import (
	"net"
	"os"
	"testing"
	"time"

	"github.com/twill-cni/twill/bgp/gobgp/peertest"
)

// The tests' own network namespace is that of the control plane.
func TestMain(m *testing.M) { os.Exit(peertest.Main(m)) }

// patience is for what takes milliseconds on an idle machine.
const patience = 30 * time.Second

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// serve answers every TCP connection to port 8080 of a namespace with a name.
func serve(t *testing.T, namespace, name string) {
	t.Helper()
	var listener net.Listener
	must(t, inside(namespace, func() (err error) {
		listener, err = net.Listen("tcp", ":8080")
		return err
	}))
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // closed
			}
			_, _ = conn.Write([]byte(name)) // the other end checks
			_ = conn.Close()
		}
	}()
}
