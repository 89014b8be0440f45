package session

import (
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var sampleEntry = utmpEntry{
	line: "pts/3",
	acc:  Account{Login: "alice"},
	from: netip.AddrFrom4([4]byte{192, 0, 2, 7}),
}

// UtmpEntry is a record of utmp as one of the two processors has it.
func UtmpEntry(wide bool) []byte {
	return layout{wide}.utmp(userProcess, sampleEntry, 42, time.Unix(1000000000, 0))
}

// LastlogEntry is one of lastlog.
func LastlogEntry(wide bool) []byte {
	return layout{wide}.lastlog(sampleEntry, time.Unix(1000000000, 0))
}

// LockShared locks a file as its readers can.
func LockShared(t *testing.T, f *os.File) {
	t.Helper()
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_RDLCK}); err != nil {
		t.Fatal(err)
	}
}
