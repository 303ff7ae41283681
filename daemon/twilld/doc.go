// Twilld is Twill's node daemon: it makes the pods of this node and those of all other nodes reach each other, and keeps it
// so.
//
//	config ─► store/etcd ─► node ─► kernel/reconcile ─► kernel/linux, kernel/nft
//	        overlay, bgp ───┘  └──► hostfile, health, api
//
// This package only wires: it opens what touches the outside, hands it to daemon/node, and turns signals into an orderly end. SIGTERM and
// SIGINT end the process and leave the kernel as it is, so pods keep talking while no daemon runs. The exit code is 0 at an orderly
// end, 2 when the configuration is wrong (starting again will not help) and 1 for everything else.
package main
