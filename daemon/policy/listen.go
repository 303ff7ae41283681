package policy

import (
	"context"
	"errors"

	"github.com/twill-cni/twill/kernel/nflog"
)

// Listen returns what tells of refused packets (Options.Drops): it listens to the NFLOG group of the network namespace of the calling thread.
func Listen(group uint16) func(ctx context.Context, each func(Packet), lost func(messages int)) error {
	return func(ctx context.Context, each func(Packet), lost func(int)) error {
		reader, err := nflog.Open(group)
		if err != nil {
			return err
		}
		told := uint64(0)
		err = reader.Run(ctx, func(p nflog.Packet) {
			if n := reader.Lost(); n > told {
				lost(int(n - told))
				told = n
			}
			each(Packet{Prefix: p.Prefix, Protocol: p.Protocol, Src: p.Src, Dst: p.Dst, Port: p.DstPort})
		})
		return errors.Join(err, reader.Close())
	}
}
