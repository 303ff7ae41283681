// Package probe asks an address one question from inside a network namespace, and says whether packets go there and back.
//
//	TCP    connect                 accepted, or refused: both ends were reached
//	UDP    a datagram              an answer, or the ICMP error that says that nobody listens
//	ICMP   an echo request         its reply
//	Who, Resolve                   the name that a Server says; the addresses that a name server has
//
// Silence has several meanings: what policies refuse is dropped without a word, and so is what goes to a host that is not there; and a server of UDP may
// have nothing to say. So it is for the caller, who knows what should be, to judge it. Each question has a source port, or an identifier, of its
// own, so that no connection that is tracked already lets it pass.
package probe
