package loginrecord

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"runtime"
	"time"
)

// Types of utmp entries (utmp(5)). The values from initProcess to deadProcess are entries of processes.
const (
	initProcess = 5
	userProcess = 7
	deadProcess = 8
)

// Sizes and offsets of fields, in bytes, which both layouts share.
const (
	lineBytes  = 32
	userBytes  = 32
	hostBytes  = 256
	idBytes    = 4
	kindOffset = 0
	idOffset   = 40 // after a 16-bit type, padding, a 32-bit process id and the line
)

// recordLayout is how glibc lays out the records. On amd64 they keep 32-bit times for compatibility; on arm64
// times were 64 bits wide from the start.
type recordLayout struct{ wide bool }

// hostLayout returns this machine's layout. known is false on processors for which the layout is not known;
// there no records are kept.
func hostLayout() (layout recordLayout, known bool) {
	known = runtime.GOARCH == "amd64" || runtime.GOARCH == "arm64"
	return recordLayout{wide: runtime.GOARCH == "arm64"}, known
}

// utmp encodes one entry of utmp and wtmp (struct utmp). kind is userProcess or deadProcess; an entry for a
// process that has ended names no user.
func (l recordLayout) utmp(kind int, entry Entry, pid int, now time.Time) []byte {
	var b bytes.Buffer
	// Both processors are little-endian. Writing to memory never fails.
	put := func(v any) { _ = binary.Write(&b, binary.LittleEndian, v) }
	text := func(s string, size int) { put(append([]byte(s), make([]byte, size)...)[:size]) }
	put(int32(kind)) // 16 bits and padding
	put(int32(pid))
	text(entry.Line, lineBytes)
	text(entry.Line[max(0, len(entry.Line)-idBytes):], idBytes) // id: the end of the terminal's name
	if kind == userProcess {
		text(entry.Login, userBytes)
		text(hostName(entry.From), hostBytes)
	} else {
		text("", userBytes+hostBytes)
	}
	put(int32(0)) // exit status, which nobody fills in
	if l.wide {
		put([]int64{int64(pid), now.Unix(), int64(now.Nanosecond() / 1000)})
	} else {
		put([]int32{int32(pid), int32(now.Unix()), int32(now.Nanosecond() / 1000)})
	}
	put(addressBytes(entry.From))
	text("", 20) // reserved
	if l.wide {
		text("", 4) // padding to a multiple of 8
	}
	return b.Bytes()
}

// lastlog encodes the record of an account's last login (struct lastlog).
func (l recordLayout) lastlog(entry Entry, now time.Time) []byte {
	b := make([]byte, 0, 8+lineBytes+hostBytes)
	if l.wide {
		b = binary.LittleEndian.AppendUint64(b, uint64(now.Unix()))
	} else {
		b = binary.LittleEndian.AppendUint32(b, uint32(now.Unix()))
	}
	for _, field := range []struct {
		text string
		size int
	}{{entry.Line, lineBytes}, {hostName(entry.From), hostBytes}} {
		b = append(b, append([]byte(field.text), make([]byte, field.size)...)[:field.size]...)
	}
	return b
}

func hostName(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// addressBytes has an IPv4 address in its first four bytes.
func addressBytes(a netip.Addr) (out [16]byte) {
	copy(out[:], a.AsSlice())
	return out
}
