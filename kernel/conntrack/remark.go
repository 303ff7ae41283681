package conntrack

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel/nfnl"
)

// Remark sets the masked bits of the mark of flows for which decide returns change, to those of the mark that it returns, and returns how many flows
// have another mark now. What has the bits already is left alone, and so are all bits that are not in the mask. Packets of both directions
// meet the new mark from then on.
//
// The table is read as a stream, and marks are set in between, so that memory does not grow with it. A flow that ends meanwhile is no error. A
// flow is found again by its original tuple: one that ended, and was opened anew between the same ends within the time that a piece of the listing
// takes, gets the mark of its predecessor. It works on the network namespace of the calling thread.
func Remark(ctx context.Context, flows Flows, mask uint32, decide func(Flow) (mark uint32, change bool)) (changed int, err error) {
	reader, writer, closeBoth, err := openTwo()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, closeBoth()) }()
	var errs []error
	err = dump(ctx, reader, flows, func() {}, func(f Flow, m nfnl.Message) error {
		mark, change := decide(f)
		if !change || (f.Mark^mark)&mask == 0 {
			return nil
		}
		request, err := marking(m, mark, mask)
		if err != nil {
			return err
		}
		switch err := writer.Do(request); {
		case err == nil:
			changed++
		case !errors.Is(err, unix.ENOENT): // gone by itself
			if errs = append(errs, err); len(errs) == maxErrors {
				return errors.New("too many errors")
			}
		}
		return nil
	})
	if err := errors.Join(append(errs, err)...); err != nil {
		return changed, fmt.Errorf("mark conntrack entries: %w", err)
	}
	return changed, nil
}

// maxErrors is how many entries the kernel may refuse to mark before it is clear that it will refuse them all.
const maxErrors = 8

// marking turns a listed entry into the request to change its mark (ctnetlink_change_mark). Without NLM_F_CREATE the kernel makes nothing.
func marking(m nfnl.Message, mark, mask uint32) (nfnl.Message, error) {
	out := nfnl.Message{Type: msgNew, Family: m.Family}
	for a, err := range nfnl.Each(m.Attrs) {
		if err != nil {
			return out, err
		}
		switch a.Type {
		case ctaTupleOrig:
			out.Attrs.Bytes(a.Type|unix.NLA_F_NESTED, a.Value)
		case ctaZone:
			out.Attrs.Bytes(a.Type, a.Value)
		}
	}
	out.Attrs.Uint32(ctaMark, mark&mask) // the kernel combines it with what the mask leaves of the old one by XOR
	out.Attrs.Uint32(ctaMarkMask, mask)
	return out, nil
}
