// Package nfnl is the netlink socket for the kernel's netfilter subsystems: nf_tables (kernel/nft), logs (kernel/nflog) and connection tracking
// (kernel/conntrack). It knows how messages are framed, sent and answered, and nothing of what they say.
//
//	Batch   BEGIN genid | message | ... | message ACK | END   one sendto, one transaction, one acknowledgement
//	Get     message  ->  one answer
//	Dump    message  ->  answers ... DONE                     ErrStale when the kernel says it was disturbed
//
// A netfilter request is worked off inside sendto (net/netfilter/nfnetlink.c runs in the sender's context), so its answers are
// queued by the time that sendto returns: a Socket never blocks, needs no reader goroutine and no timeout. Opening one, a
// transaction with one element and closing it are four system calls, which is why the CNI plugin can afford it.
//
// Only a batch's last message asks for an acknowledgement. Errors come without being asked for, and the sequence number in an
// error says which message it is about, so that "add element to set hostports: file exists" needs no acknowledgement of the
// other 10,000 messages.
package nfnl
