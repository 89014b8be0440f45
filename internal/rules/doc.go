// Package rules answers: what are the cluster's rules, and who signed them?
//
// Auth publishes documents by kind (authorities, roles, settings) and every few seconds a head that names the
// current revision of each. All are signed, so a stolen proxy, which passes them on, can neither loosen nor
// mix them. Each revision of authorities is signed by the rules key of the one before. The cluster root key
// signs the first one, and one with a higher epoch when the rules key must be replaced. So a machine that
// knows only the pin can verify the chain. Trust is the verified set; only Open, Advance and a Receiver make
// one.
//
// A program verifies documents of kinds that it does not know by the head's digest and by their signature,
// keeps them and passes them on, but does not read them. If the head calls such a kind critical, the program
// refuses the head and keeps the rules that it has.
//
// On the way the rules are pieces (Piece): a document whole or as a Delta, and a head. A Feed is what a
// sender needs to send to each receiver only the pieces that it lacks. A Receiver takes pieces in any order
// and puts them in force together, as a head names them.
//
// An Acknowledgement is the way back: a machine signs by which documents it decides.
package rules
