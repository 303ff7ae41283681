//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/twill-cni/twill/failpoint"
	"github.com/twill-cni/twill/kernel/conntrack"
	"github.com/twill-cni/twill/kernel/nft"
	"github.com/twill-cni/twill/plugins/attach"
	"github.com/twill-cni/twill/policy/gate"
)

// holdTime is how long an ADD waits for the daemon or another ADD to let go of the table. Each needs it for milliseconds.
const holdTime = time.Second

// gatekeeper asks the daemon that enforces policies, and does without it where it must.
type gatekeeper struct {
	runDir string
	table  gate.Config
}

func (g gatekeeper) Ask(r attach.Record) attach.Answer {
	a := &answer{g, gate.Ask(gate.SocketPath(g.runDir), gate.Request{ContainerID: r.ContainerID, IfName: r.IfName}), nil}
	for _, p := range r.Addresses {
		a.addresses = append(a.addresses, p.Addr())
	}
	return a
}

// answer is the daemon's answer about one pod.
type answer struct {
	gatekeeper
	question  *gate.Question
	addresses []netip.Addr
}

func (a *answer) Closed(ctx context.Context) error {
	if a.question.Closed(ctx) {
		return nil
	}
	failpoint.Hit("add-alone")
	if err := a.shut(ctx); err != nil {
		return fmt.Errorf("%w: twilld does not answer, and without it: %w", attach.ErrNotClosed, err)
	}
	return nil
}

// shut removes what another pod may have left of the addresses. Connections go last: while an element is there, new ones may come.
func (a *answer) shut(ctx context.Context) error {
	if err := a.removeElements(ctx); err != nil {
		return err
	}
	failpoint.Hit("add-shut")
	_, err := conntrack.FlushAddrs(ctx, a.addresses)
	return err
}

func (a *answer) removeElements(ctx context.Context) (err error) {
	held, cancel := context.WithTimeout(ctx, holdTime)
	defer cancel()
	release, err := gate.Hold(held, a.runDir)
	if err != nil {
		return err
	}
	defer release()
	tables, err := nft.Open(slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tables.Close()) }()
	if _, err := tables.EnsureTable(ctx, gate.Closed(a.table)); err != nil {
		return err
	}
	return tables.DeleteElements(ctx, gate.Family, gate.TableName, gate.LocalKeys(a.addresses...))
}

func (a *answer) Ready(ctx context.Context) { a.question.Ready(ctx) }

func (a *answer) Close() { a.question.Close() }
