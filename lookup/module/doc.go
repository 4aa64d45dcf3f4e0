// Package module asks an external NetWin authent module: a child process that
// reads commands on its standard input and answers on its standard output, one
// line each. It is what the original's authent_process names.
//
//	m, err := module.New([]string{"/usr/local/surgemail/nwauth", "-path", "/usr/local/surgemail"}, module.Options{})
//	…
//	account, err := m.Lookup(ctx, "anna@example.test")
//
// # Answers
//
// -ERR to a lookup is absent, -ERR to a check is rejected. Everything that is
// not a well-formed answer about the account that was asked for is
// unavailable: -DEAD, a time-out, the child's death, garbage, another account's
// record. After any of these but -DEAD the child is killed and another one is
// started, since what it says next could be taken for the answer to the next
// question.
//
// # What an old module gets to see
//
// Only what its grammar can carry: a name without space, quote or control
// character, and a password without them that is not (NULL). Nobody can have
// any other in a module's database, so a lookup of such a name is absent, a
// check is rejected and a set is refused, without a question. Options.ASCII
// makes this true of all characters beyond ASCII, for modules that refuse
// them.
//
// # What a module does not have
//
// A module keeps no generations of homes by itself: a set that changes tohost
// sends homegen with it, one higher than the module answers now. This is safe
// while all changes go through one process. A new account begins with the
// time, in seconds since 1970: so its generation is higher than that of a
// deleted account of the same name, which no module remembers.
package module
