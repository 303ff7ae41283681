// Package record keeps the records of a network's attachments: small files below the run directory that say what each ADD was
// going to make.
//
//	<runDir>/attachments/<network>/<container id>:<interface>:adding    an ADD runs, or was killed
//	<runDir>/attachments/<network>/<container id>:<interface>           the attachment is complete
//
// A file holds JSON objects, one a line. The first is written before anything is made; a later line, such as the one with the
// leased addresses, replaces what the lines before it say. The rename to the final name is the last step of an ADD.
// A colon divides the parts since none of them can hold one. Before, a record whose ADD was not at its end was called
// <interface>.adding, which may also be an interface's name; such files are told apart by what they hold.
//
// A DEL takes the final name away again before it removes anything: then the record is what it is after an ADD that was killed, and
// whoever keeps host ports in place (the daemon) leaves those of this attachment alone.
//
// Locks (flock, so that the kernel drops them when a process is killed): an ADD holds its own file exclusively, and the
// directory shared. A DEL that finds the file locked knows that the ADD is not dead but running. A GC holds the
// directory exclusively and thereby sees no ADD half-way.
package record
