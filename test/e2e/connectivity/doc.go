// Package connectivity runs `twillctl connectivity` in labs: where all is well, and with something broken, when exactly the cases that it concerns fail.
//
//	inject ──► twillctl connectivity -o json, -o junit ──► which cases failed ──► undo
//
// What is broken is nothing that daemons repair: routes and rules of somebody else, and a switch.
package connectivity
