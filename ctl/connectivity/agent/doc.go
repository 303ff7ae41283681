// Package agent asks questions of package connectivity from inside a pod that is somewhere else, over a stream.
//
//	Client.Ask ──{"id":7,"question":...}──► Answer ──► probe ──► the network of the pod
//	           ◄──{"id":7,"answer":...}────
//
// One stream serves for a whole test. Each line is one JSON object; the first line of the answering end says what the pod is: its addresses, its MTU, the name servers
// that it was told of. Many questions may be on their way at one time; answers come in any order. Lines that are too long end the stream, whichever end sent them.
package agent
