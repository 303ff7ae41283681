package nfnl

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Batch is a transaction of one subsystem that is being written: all of its messages take effect or none. They go straight into the
// buffer that is sent, so that one with hundreds of thousands of elements costs little more than its bytes. The socket must not be used
// for anything else until Commit.
type Batch struct {
	Attrs // of the message that Add began last, to be appended to

	socket    *Socket
	subsystem uint8
	first     uint32 // sequence number of the first message
	count     int
	start     int // where in Attrs the last message starts
}

// Begin starts a transaction of about size bytes. A generation other than 0 makes the kernel refuse it with ERESTART when its rule set
// is not of that generation any more.
func (s *Socket) Begin(subsystem uint8, generation uint32, size int) *Batch {
	begin := Message{Type: unix.NFNL_MSG_BATCH_BEGIN}
	if generation != 0 {
		begin.Attrs.Uint32(unix.NFNL_BATCH_GENID, generation)
	}
	const frame = 4 * (headerSize + nfgenSize) // BEGIN, its attribute and END
	b := s.append(make([]byte, 0, size+frame), begin, unix.NLM_F_REQUEST, uint16(subsystem))
	return &Batch{Attrs: b, socket: s, subsystem: subsystem, first: s.seq + 1}
}

// Add begins a message. What is appended to the batch's attributes after that belongs to it.
func (b *Batch) Add(m Message) {
	b.finish()
	b.start = len(b.Attrs)
	b.count++
	b.Attrs = b.socket.append(b.Attrs, m, m.Flags|unix.NLM_F_REQUEST, 0)
}

// Len returns how many messages there are.
func (b *Batch) Len() int { return b.count }

// finish enters the length of the last message into its header.
func (b *Batch) finish() {
	if b.count > 0 {
		binary.NativeEndian.PutUint32(b.Attrs[b.start:], uint32(len(b.Attrs)-b.start))
	}
}

// Commit sends the transaction, none as nothing. The error, if any, is an *Error about the first message that was refused, or a
// failure of the socket itself.
func (b *Batch) Commit() error { return b.finally(true) }

// Try has the kernel check the transaction and take it back. It answers as for Commit.
func (b *Batch) Try() error { return b.finally(false) }

func (b *Batch) finally(commit bool) error {
	if b.count == 0 {
		return nil
	}
	b.finish()
	flags := b.Attrs[b.start+6:]
	binary.NativeEndian.PutUint16(flags, binary.NativeEndian.Uint16(flags)|unix.NLM_F_ACK)
	last := b.socket.seq
	if commit { // without an end, the kernel aborts (nfnetlink_rcv_batch)
		b.Attrs = b.socket.append(b.Attrs, Message{Type: unix.NFNL_MSG_BATCH_END}, unix.NLM_F_REQUEST, uint16(b.subsystem))
	}
	if err := b.socket.send(b.Attrs); err != nil {
		return err
	}
	return b.socket.acknowledge(b.first, last)
}

// Batch sends messages as a single transaction: see Begin and Commit.
func (s *Socket) Batch(subsystem uint8, generation uint32, messages []Message) error {
	size := 0
	for _, m := range messages {
		size += headerSize + nfgenSize + len(m.Attrs)
	}
	b := s.Begin(subsystem, generation, size)
	for _, m := range messages {
		b.Add(m)
	}
	return b.Commit()
}
