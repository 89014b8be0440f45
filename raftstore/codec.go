package raftstore

import (
	"encoding/binary"
	"errors"
	"math"
	"strconv"
)

var errMalformed = errors.New("malformed bytes")

// quote makes a key or name printable in an error message.
func quote(s string) string { return strconv.QuoteToASCII(s) }

// writer appends the three elements of which every format here is made: varints, byte strings and single
// bytes.
type writer struct{ buf []byte }

func (w *writer) byte(b byte)     { w.buf = append(w.buf, b) }
func (w *writer) uint(v uint64)   { w.buf = binary.AppendUvarint(w.buf, v) }
func (w *writer) bytes(b []byte)  { w.uint(uint64(len(b))); w.buf = append(w.buf, b...) }
func (w *writer) string(s string) { w.uint(uint64(len(s))); w.buf = append(w.buf, s...) }

// reader reads what writer wrote. After the first malformed shape it returns zeros and keeps err, so a
// caller checks once at the end. It allocates nothing: byte strings are parts of buf.
type reader struct {
	buf []byte
	err error
}

func (r *reader) fail() { r.buf, r.err = nil, errMalformed }

func (r *reader) byte() byte {
	if len(r.buf) == 0 {
		r.fail()
		return 0
	}
	b := r.buf[0]
	r.buf = r.buf[1:]
	return b
}

func (r *reader) uint() uint64 {
	v, n := binary.Uvarint(r.buf)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.buf = r.buf[n:]
	return v
}

// nonNegative reads a number that is an int64 in memory. It drops the highest bit: no writer sets that, and
// damaged bytes must not give a negative number.
func (r *reader) nonNegative() int64 { return int64(r.uint() & math.MaxInt64) }

func (r *reader) bytes() []byte {
	n := r.uint()
	if n > uint64(len(r.buf)) {
		r.fail()
		return nil
	}
	b := r.buf[:n:n]
	r.buf = r.buf[n:]
	return b
}

// digest reads a digest.
func (r *reader) digest() (d Digest) {
	if len(r.buf) < len(d) {
		r.fail()
		return Digest{}
	}
	copy(d[:], r.buf)
	r.buf = r.buf[len(d):]
	return d
}

func (r *reader) string() string { return string(r.bytes()) }

// count reads how many elements follow, each of at least size bytes: a lie about it cannot make the caller
// allocate more than a small multiple of what was sent.
func (r *reader) count(size int) int {
	n := r.uint()
	if n > uint64(len(r.buf)/size) {
		r.fail()
		return 0
	}
	return int(n)
}

// end reports whether everything was well formed and nothing is left over.
func (r *reader) end() error {
	if r.err == nil && len(r.buf) > 0 {
		r.fail()
	}
	return r.err
}
