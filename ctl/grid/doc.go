// Package grid prints who reaches whom: a row for each source, a column for each target, a mark in each cell.
//
//	Cells, in any order -> Printer.Grid -> a table, or with many columns marks alone
//
// A column stands where the row of the same name does, so that in a full matrix the diagonal is what nobody asked.
package grid
