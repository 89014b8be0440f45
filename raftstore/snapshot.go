package raftstore

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	iradix "github.com/hashicorp/go-immutable-radix/v2"
	"github.com/hashicorp/raft"

	"github.com/threshold-access/threshold/internal/fault"
)

// A snapshot is an encoded state. It has one section for each part of the state:
//
//	snapshot = magic:8 section* end
//	section  = kind:byte length:uvarint body
//
// The last byte of the magic is the version. Kinds are append-only, and a kind that has other fields is a new
// kind. Every section is critical: a snapshot with an unknown kind is refused, because the state without it
// would differ from that of other replicas. Of a stream it has the list of segment files with their digests,
// not their bytes. raft's snapshot store adds a checksum over the whole.
const snapshotMagic = "thrsnap\x01"

const (
	sectionHead   byte = 1 // revision, term, clock, lastLease, firstWrite
	sectionItem   byte = 2
	sectionLease  byte = 3
	sectionStream byte = 4
	sectionEnd    byte = 0xff
)

// maxSection bounds a section's length in bytes. It is more than an item of maximal size takes, or the
// segment list of a stream of 16 TB.
const maxSection = 64 << 20

// bufferBytes is the buffer with which snapshots are written and read.
const bufferBytes = 256 << 10

// snapshot is a state that raft writes as a snapshot. It implements raft.FSMSnapshot.
type snapshot struct {
	*state
	files   *segmentFiles
	load    *snapshotLoad
	covered logSize // of load: what need not be applied again once the snapshot is durable
}

// Persist writes the snapshot to sink and closes it; after an error it cancels it. First it makes the records
// of all streams durable, because raft drops them from the log after a snapshot. raft calls it from a
// goroutine of its own while Apply goes on.
func (s snapshot) Persist(sink raft.SnapshotSink) error {
	err := s.files.sync()
	if err == nil {
		err = s.writeSnapshot(sink)
	}
	if err != nil {
		return errors.Join(err, sink.Cancel())
	}
	if err := sink.Close(); err != nil {
		return err
	}
	s.load.subtract(s.covered)
	// A file that cannot be deleted does no harm to the snapshot. If the disk failed, the latch has tripped.
	_ = s.files.deleteDropped(s.state)
	return nil
}

// Release does nothing: the state is immutable and shared.
func (snapshot) Release() {}

// writeSnapshot writes the state as a snapshot. Trees are walked in the order of their keys, so equal states
// give equal bytes.
func (s *state) writeSnapshot(to io.Writer) error {
	out := sectionWriter{w: bufio.NewWriterSize(to, bufferBytes)}
	_, out.err = out.w.WriteString(snapshotMagic)
	out.put(sectionHead, func(w *writer) {
		w.uint(uint64(s.revision))
		w.uint(s.term)
		w.uint(uint64(s.clock))
		w.uint(uint64(s.lastLease))
		w.uint(uint64(s.firstWrite))
	})
	walk(s.leases, func(key []byte, ttl time.Duration) {
		out.put(sectionLease, func(w *writer) { w.uint(binary.BigEndian.Uint64(key)); w.uint(uint64(ttl)) })
	})
	walk(s.items, func(_ []byte, it *Item) { out.put(sectionItem, func(w *writer) { w.encodeItem(it) }) })
	walk(s.streams, func(name []byte, st stream) {
		out.put(sectionStream, func(w *writer) { w.bytes(name); w.encodeStream(st) })
	})
	out.put(sectionEnd, func(*writer) {})
	return errors.Join(out.err, out.w.Flush())
}

// walk calls do for every leaf, in the order of the keys.
func walk[T any](t *iradix.Tree[T], do func(key []byte, v T)) {
	it := t.Root().Iterator()
	for key, v, ok := it.Next(); ok; key, v, ok = it.Next() {
		do(key, v)
	}
}

// sectionWriter writes sections. It keeps the first error and writes nothing after it.
type sectionWriter struct {
	w    *bufio.Writer
	body writer // of the current section; its buffer is used again
	err  error
}

// put writes one section, whose body fill writes.
func (s *sectionWriter) put(kind byte, fill func(*writer)) {
	if s.err != nil {
		return
	}
	s.body.buf = s.body.buf[:0]
	fill(&s.body)
	head := binary.AppendUvarint([]byte{kind}, uint64(len(s.body.buf)))
	if _, s.err = s.w.Write(head); s.err == nil {
		_, s.err = s.w.Write(s.body.buf)
	}
}

func (w *writer) encodeItem(it *Item) {
	w.string(it.Key)
	w.bytes(it.Value)
	w.uint(uint64(it.Created))
	w.uint(uint64(it.Modified))
	w.uint(uint64(it.Lease))
}

// encodeStream encodes a stream as its next record number, the digest of what was dropped, and the list of
// its segments.
func (w *writer) encodeStream(st stream) {
	w.uint(st.nextNumber)
	w.buf = append(w.buf, st.dropped[:]...)
	segs := st.segments()
	w.uint(uint64(len(segs)))
	for _, seg := range segs {
		w.uint(seg.base)
		w.uint(uint64(seg.size))
		w.uint(uint64(seg.newest))
		w.buf = append(w.buf, seg.end[:]...)
	}
}

// decodeStream decodes what encodeStream has encoded. The last segment is the tail.
func (r *reader) decodeStream() (st stream) {
	st.nextNumber, st.dropped = r.uint(), r.digest()
	for n := r.count(3 + digestBytes); n > 0; n-- {
		if st.hasTail {
			st.sealed = append(st.sealed, st.tail)
		}
		const maxSize = 1<<62 - 1 // so that adding to a damaged size cannot overflow
		base, size := r.uint(), int64(r.uint()&maxSize)
		st.tail = segment{base: base, size: size, newest: r.nonNegative(), end: r.digest()}
		st.hasTail = true
	}
	return st
}

// readSnapshot decodes a snapshot and returns its state. It never panics, whatever the bytes are. The
// error is errUnsupported if the bytes do not begin with the magic, which contains the version, or if this
// release does not know a section.
func readSnapshot(from io.Reader) (*state, error) {
	in := bufio.NewReaderSize(from, bufferBytes)
	var magic [len(snapshotMagic)]byte
	if _, err := io.ReadFull(in, magic[:]); err != nil {
		return nil, err
	}
	if string(magic[:]) != snapshotMagic {
		return nil, fmt.Errorf("it begins with %q: %w", magic, errUnsupported)
	}
	// Revision, term and clock start at 0: the sections set them. There are no stream files (nil), because no
	// section appends to a stream.
	builder := newState().newBuilder(0, 0, 0, nil)
	for {
		kind, body, err := readSection(in)
		if err != nil {
			return nil, err
		}
		if kind == sectionEnd {
			return builder.finish(), nil
		}
		if err := builder.restoreSection(kind, reader{buf: body}); err != nil {
			return nil, err
		}
	}
}

// readSection reads one section and returns its kind and its body. It allocates no more than the input has,
// whatever length the section claims.
func readSection(in *bufio.Reader) (kind byte, body []byte, err error) {
	kind, err = in.ReadByte()
	if err != nil {
		return 0, nil, unexpectedEOF(err)
	}
	size, err := binary.ReadUvarint(in)
	if err != nil {
		return 0, nil, unexpectedEOF(err)
	}
	if size > maxSection {
		return 0, nil, errMalformed
	}
	body, err = io.ReadAll(io.LimitReader(in, int64(size)))
	if err == nil && uint64(len(body)) < size {
		err = io.ErrUnexpectedEOF
	}
	return kind, body, err
}

// unexpectedEOF turns io.EOF into io.ErrUnexpectedEOF: a complete snapshot ends with sectionEnd.
func unexpectedEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// restoreSection decodes the body of one section and adds it to the state.
func (s *stateBuilder) restoreSection(kind byte, r reader) error {
	switch kind {
	case sectionHead:
		s.revision, s.term, s.clock = Revision(r.uint()), r.uint(), r.nonNegative()
		s.lastLease, s.firstWrite = LeaseID(r.uint()), Revision(r.uint())
	case sectionLease:
		s.leases.Insert(leaseKey(LeaseID(r.uint())), time.Duration(r.nonNegative()))
	case sectionItem:
		item := &Item{
			Key:      r.string(),
			Value:    r.bytes(),
			Created:  Revision(r.uint()),
			Modified: Revision(r.uint()),
			Lease:    LeaseID(r.uint()),
		}
		s.items.Insert([]byte(item.Key), item)
		if item.Lease != 0 {
			s.keysByLease.Insert(leaseItemKey(item.Lease, item.Key), item.Key)
		}
	case sectionStream:
		name := r.bytes()
		s.streams.Insert(name, r.decodeStream())
	default:
		return fmt.Errorf("section %d: %w", kind, errUnsupported)
	}
	return r.end()
}

// snapshotFault says why a snapshot cannot be restored: it is of a newer release, or it is damaged.
func snapshotFault(err error) error {
	if errors.Is(err, errUnsupported) {
		return snapshotTooNew.Wrap(err, "raftstore.Run", fault.Args{"why": err.Error()})
	}
	return snapshotUnreadable.Wrap(err, "raftstore.Run")
}
