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

// A snapshot is a state, in sections:
//
//	snapshot = magic:8 section* end
//	section  = kind:byte length:uvarint body
//
// The last byte of the magic is the version. Kinds are append-only; an unknown one refuses the snapshot.
// Streams stand in it as lists of segment files, not as bytes. raft's snapshot store adds a checksum over it
// all.
const snapshotMagic = "thrsnap\x01"

const (
	sectionHead   byte = 1 // revision, term, clock, lastLease, born
	sectionItem   byte = 2
	sectionLease  byte = 3
	sectionStream byte = 4
	sectionEnd    byte = 0xff
)

// maxSection is over any section's length: an item of maximal size, or the segments of a stream of 16 TB.
const maxSection = 64 << 20

type snapshot struct {
	*state
	files *segmentFiles
}

// Persist writes the snapshot. The records it covers are made durable first, because afterwards raft drops
// them from the log.
func (s snapshot) Persist(sink raft.SnapshotSink) error {
	err := s.files.sync()
	if err == nil {
		err = s.write(sink)
	}
	if err != nil {
		return errors.Join(err, sink.Cancel())
	}
	return sink.Close()
}

// Release has nothing to let go of: the state is immutable and shared.
func (snapshot) Release() {}

func (s *state) write(to io.Writer) error {
	out := sectionWriter{w: bufio.NewWriterSize(to, 256<<10)}
	_, out.err = out.w.WriteString(snapshotMagic)
	out.put(sectionHead, func(w *writer) {
		for _, v := range []uint64{uint64(s.revision), s.term, uint64(s.clock), uint64(s.lastLease), uint64(s.firstWrite)} {
			w.uint(v)
		}
	})
	walk(s.leases, func(key []byte, ttl time.Duration) {
		out.put(sectionLease, func(w *writer) { w.uint(binary.BigEndian.Uint64(key)); w.uint(uint64(ttl)) })
	})
	walk(s.items, func(_ []byte, it *Item) { out.put(sectionItem, func(w *writer) { w.item(it) }) })
	walk(
		s.streams,
		func(name []byte, st stream) { out.put(sectionStream, func(w *writer) { w.bytes(name); w.stream(st) }) },
	)
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

type sectionWriter struct {
	w    *bufio.Writer
	body writer
	err  error
}

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

func (w *writer) item(it *Item) {
	w.string(it.Key)
	w.bytes(it.Value)
	w.uint(uint64(it.Created))
	w.uint(uint64(it.Modified))
	w.uint(uint64(it.Lease))
}

func (w *writer) stream(st stream) {
	w.uint(st.next)
	segs := st.segments()
	w.uint(uint64(len(segs)))
	for _, seg := range segs {
		w.uint(seg.base)
		w.uint(uint64(seg.size))
	}
}

func (r *reader) stream() (st stream) {
	st.next = r.uint()
	for n := r.count(2); n > 0; n-- {
		if st.hasTail {
			st.sealed = append(st.sealed, st.tail)
		}
		st.tail, st.hasTail = segment{base: r.uint(), size: int64(r.uint() & (1<<62 - 1))}, true
	}
	return st
}

// readSnapshot builds a state from a snapshot. It never panics, whatever is in it.
func readSnapshot(from io.Reader) (*state, error) {
	in := bufio.NewReaderSize(from, 256<<10)
	var magic [len(snapshotMagic)]byte
	if _, err := io.ReadFull(in, magic[:]); err != nil {
		return nil, err
	}
	if string(magic[:]) != snapshotMagic {
		return nil, errUnsupported
	}
	s := newState()
	step := s.builder(0, 0, 0, nil)
	for {
		kind, body, err := readSection(in)
		if err != nil {
			return nil, err
		}
		if kind == sectionEnd {
			return step.finish(), nil
		}
		if err := step.restore(kind, reader{buf: body}); err != nil {
			return nil, err
		}
	}
}

func readSection(in *bufio.Reader) (byte, []byte, error) {
	kind, err := in.ReadByte()
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
	body, err := io.ReadAll(io.LimitReader(in, int64(size))) // grows with what is really there
	if err == nil && uint64(len(body)) < size {
		err = io.ErrUnexpectedEOF
	}
	return kind, body, err
}

func unexpectedEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF // a snapshot ends with sectionEnd
	}
	return err
}

// restore adds one section to the state.
func (s *stateBuilder) restore(kind byte, r reader) error {
	switch kind {
	case sectionHead:
		s.revision, s.term, s.clock = Revision(r.uint()), r.uint(), int64(r.uint()&(1<<63-1))
		s.lastLease, s.firstWrite = LeaseID(r.uint()), Revision(r.uint())
	case sectionLease:
		s.leases.Insert(leaseKey(LeaseID(r.uint())), time.Duration(r.uint()&(1<<63-1)))
	case sectionItem:
		it := &Item{
			Key:      r.string(),
			Value:    r.bytes(),
			Created:  Revision(r.uint()),
			Modified: Revision(r.uint()),
			Lease:    LeaseID(r.uint()),
		}
		s.items.Insert([]byte(it.Key), it)
		if it.Lease != 0 {
			s.keysByLease.Insert(leaseItemKey(it.Lease, it.Key), it.Key)
		}
	case sectionStream:
		name := r.bytes()
		s.streams.Insert(name, r.stream())
	default:
		return fmt.Errorf("section %d: %w", kind, errUnsupported)
	}
	return r.end()
}

func snapshotFault(err error) error {
	if errors.Is(err, errUnsupported) {
		return fault.Wrap(
			err,
			fault.Unavailable,
			"raftstore.Run",
			"the snapshot is of a newer release",
			"start the release that wrote it, or a newer one",
		)
	}
	return fault.Wrap(
		err,
		fault.Internal,
		"raftstore.Run",
		"the snapshot can not be read",
		"restore the data folder from a backup",
	)
}
