package api

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/proxy/dnat"
	"github.com/twill-cni/twill/store"
)

// fakeServices answers with what it has, and keeps the name.
type fakeServices struct {
	report dnat.Report
	asked  store.ObjectName
	err    error
}

func (f *fakeServices) Report(_ context.Context, name store.ObjectName) (*dnat.Report, error) {
	f.asked = name
	return &f.report, f.err
}

func serveServices(t *testing.T, about func() Services) *Client {
	t.Helper()
	dir := t.TempDir()
	serveAbout(t, dir, About{BGP: func() BGP { return nil }, Services: about}, slog.New(slog.NewTextHandler(io.Discard, nil)))
	return NewClient(dir)
}

func TestServices(t *testing.T) {
	f := &fakeServices{report: dnat.Report{
		Services:    []dnat.ServiceState{{Namespace: "shop", Name: "web", Frontends: []dnat.FrontendState{{Hits: 3}}}},
		Differences: []dnat.Difference{{Service: "shop/web", Family: "ip", Difference: kernel.Difference{What: "services", Have: "nothing", Want: "random-3"}}},
	}}
	c := serveServices(t, func() Services { return f })
	for _, name := range []store.ObjectName{{}, {Namespace: "shop", Name: "web"}} {
		report, err := c.Services(t.Context(), name)
		if diff := cmp.Diff(f.report, report, cmpopts.IgnoreUnexported(dnat.Difference{}), cmpopts.EquateComparable(dnat.SlotState{}), comparable); diff != "" || err != nil {
			t.Error(diff, err)
		}
		if f.asked != name {
			t.Errorf("asked for %s, heard %s", name, f.asked)
		}
		differences, err := c.Differences(t.Context(), name)
		if len(differences) != 1 || differences[0].String() != f.report.Differences[0].String() || err != nil {
			t.Error(differences, err)
		}
	}
	if _, err := c.Services(t.Context(), store.ObjectName{Name: "web"}); err == nil || !strings.Contains(err.Error(), "want NAMESPACE/NAME") {
		t.Errorf("error %v", err)
	}
	f.err = errors.New("not read yet")
	if _, err := c.Differences(t.Context(), store.ObjectName{}); err == nil || !strings.Contains(err.Error(), "twilld answers: not read yet") {
		t.Errorf("error %v", err)
	}
}

func TestProxyIsOff(t *testing.T) {
	c := serveServices(t, func() Services { return nil })
	if _, err := c.Services(t.Context(), store.ObjectName{}); err == nil || !strings.Contains(err.Error(), "start twilld with --proxy=nftables") {
		t.Errorf("error %v", err)
	}
}
