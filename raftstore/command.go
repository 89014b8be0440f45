package raftstore

import (
	"errors"
	"time"
)

// A command is the content of one raft log entry: the leader's clock and a list of operations that share the
// entry.
//
//	command   = version:byte time:uvarint(ns since 1970) count:uvarint operation*
//	operation = kind:byte length:uvarint body
//
// The format is append-only. New operations get new kinds, new fields a new kind or version. A leader may use
// them only when every member knows them. A replica halts at a command that it does not know (fsm.Apply),
// because its state would differ from the others' if it went on without it.
const commandV1 byte = 1

type kind byte

const (
	kindTxn    kind = 1 // conditions, writes, appends
	kindGrant  kind = 2 // a new lease
	kindRevoke kind = 3 // the end of leases, and of their keys
)

// errUnsupported marks a command of a version or kind this release does not know.
var errUnsupported = errors.New("command of an unknown version or kind")

// operation is one part of a command, with a result of its own. kind says which of the other fields count.
type operation struct {
	kind   kind
	txn    Txn
	ttl    time.Duration // of a grant
	leases []LeaseID     // of a revoke
}

type command struct {
	time int64 // the leader's clock, ns since 1970
	ops  []operation
}

// commandOverhead is the most bytes that a command takes besides its encoded operations.
const commandOverhead = 1 + 10 + 10

// encodeCommand encodes a command of operations that encodeOperation has encoded. at is the leader's clock.
func encodeCommand(at time.Time, ops [][]byte) []byte {
	size := commandOverhead
	for _, op := range ops {
		size += len(op)
	}
	w := writer{buf: make([]byte, 0, size)}
	w.byte(commandV1)
	w.uint(uint64(max(at.UnixNano(), 0)))
	w.uint(uint64(len(ops)))
	for _, op := range ops {
		w.buf = append(w.buf, op...)
	}
	return w.buf
}

// encodeOperation encodes one operation. decodeOperation decodes it; the two must agree.
func encodeOperation(op operation) []byte {
	var body writer
	switch op.kind {
	case kindTxn:
		body.encodeTxn(op.txn)
	case kindGrant:
		body.uint(uint64(op.ttl))
	case kindRevoke:
		body.uint(uint64(len(op.leases)))
		for _, id := range op.leases {
			body.uint(uint64(id))
		}
	}
	w := writer{buf: make([]byte, 0, len(body.buf)+11)}
	w.byte(byte(op.kind))
	w.bytes(body.buf)
	return w.buf
}

const writeDeletes byte = 1 // flag of a write that deletes its key

// encodeTxn encodes a transaction: its conditions, its writes and its appends, each list behind its length.
// decodeTxn decodes it; the two must agree.
func (w *writer) encodeTxn(t Txn) {
	w.uint(uint64(len(t.If)))
	for _, c := range t.If {
		w.string(c.Key)
		w.uint(uint64(c.Modified))
	}
	w.uint(uint64(len(t.Then)))
	for _, write := range t.Then {
		var flags byte
		if write.Delete {
			flags = writeDeletes
		}
		w.byte(flags)
		w.string(write.Key)
		w.bytes(write.Value)
		w.uint(uint64(write.Lease))
	}
	w.uint(uint64(len(t.Append)))
	for _, a := range t.Append {
		w.string(a.Stream)
		w.uint(uint64(len(a.Records)))
		for _, rec := range a.Records {
			w.bytes(rec)
		}
	}
}

// decodeCommand decodes a command. Strings of bytes in the result are parts of b, not copies. It never
// panics, whatever b is. A version or kind that this release does not know is errUnsupported, anything else
// that is wrong errMalformed.
func decodeCommand(b []byte) (command, error) {
	r := reader{buf: b}
	if v := r.byte(); r.err == nil && v != commandV1 {
		return command{}, errUnsupported
	}
	c := command{time: r.nonNegative()}
	c.ops = make([]operation, r.count(2)) // an operation has at least 2 bytes: kind and length
	for i := range c.ops {
		k := kind(r.byte())
		op, err := decodeOperation(k, r.bytes())
		if r.err != nil {
			break
		}
		if err != nil {
			return command{}, err
		}
		c.ops[i] = op
	}
	return c, r.end()
}

// decodeOperation decodes the body of an operation of kind k. Bytes that are left over are an error: they
// would be fields of a newer release.
func decodeOperation(k kind, body []byte) (operation, error) {
	op := operation{kind: k}
	r := reader{buf: body}
	switch k {
	case kindTxn:
		op.txn = r.decodeTxn()
	case kindGrant:
		op.ttl = time.Duration(r.nonNegative())
	case kindRevoke:
		op.leases = make([]LeaseID, r.count(1))
		for i := range op.leases {
			op.leases[i] = LeaseID(r.uint())
		}
	default:
		return op, errUnsupported
	}
	return op, r.end()
}

// decodeTxn decodes what encodeTxn has encoded. Like all methods of reader it reports errors in r.err. The
// argument of each count is the least number of bytes of one element.
func (r *reader) decodeTxn() (t Txn) {
	t.If = make([]Condition, r.count(2))
	for i := range t.If {
		t.If[i] = Condition{Key: r.string(), Modified: Revision(r.uint())}
	}
	t.Then = make([]Write, r.count(4))
	for i := range t.Then {
		flags := r.byte()
		if flags&^writeDeletes != 0 {
			r.fail()
		}
		t.Then[i] = Write{
			Delete: flags&writeDeletes != 0,
			Key:    r.string(),
			Value:  r.bytes(),
			Lease:  LeaseID(r.uint()),
		}
	}
	t.Append = make([]Append, r.count(2))
	for i := range t.Append {
		t.Append[i].Stream = r.string()
		t.Append[i].Records = make([][]byte, r.count(1))
		for j := range t.Append[i].Records {
			t.Append[i].Records[j] = r.bytes()
		}
	}
	// Commit refuses such a transaction, so no leader has proposed it: the bytes are damaged.
	if r.err == nil && t.check() != nil {
		r.fail()
	}
	return t
}
