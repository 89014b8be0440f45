package loginrecord

import (
	"net/netip"
	"time"
)

var sampleEntry = Entry{Line: "pts/3", Login: "alice", From: netip.AddrFrom4([4]byte{192, 0, 2, 7})}

// UtmpRecord is an entry of utmp in one of the two layouts.
func UtmpRecord(wide bool) []byte {
	return recordLayout{wide}.utmp(userProcess, sampleEntry, 42, time.Unix(1000000000, 0))
}

// LastlogRecord is one of lastlog.
func LastlogRecord(wide bool) []byte {
	return recordLayout{wide}.lastlog(sampleEntry, time.Unix(1000000000, 0))
}
