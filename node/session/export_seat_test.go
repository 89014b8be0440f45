package session

import (
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var someone = seat{line: "pts/3", acc: Account{Login: "alice"}, from: netip.AddrFrom4([4]byte{192, 0, 2, 7})}

// Entry is a record of utmp as one of the two processors has it.
func Entry(wide bool) []byte {
	return layout{wide}.entry(userProcess, someone, 42, time.Unix(1000000000, 0))
}

// LastlogEntry is one of lastlog.
func LastlogEntry(wide bool) []byte { return layout{wide}.lastlog(someone, time.Unix(1000000000, 0)) }

// Hold locks a file as its readers can.
func Hold(t *testing.T, f *os.File) {
	t.Helper()
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_RDLCK}); err != nil {
		t.Fatal(err)
	}
}
