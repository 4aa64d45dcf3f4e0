package nwauth

import "switchyard/lookup/nwauth/hash"

// cheap makes tests quick.
var cheap = hash.Argon2{Memory: 64, Passes: 1, Threads: 1}
