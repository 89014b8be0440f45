package raftstore

import (
	"errors"
	"fmt"
	"time"
)

// A command is the content of one raft log entry: the leader's clock and a list of operations that share the
// entry.
//
//	command   = version:byte time:uvarint(ns since 1970) count:uvarint operation*
//	operation = kind:byte needs:uvarint length:uvarint body
//
// The format is append-only. needs is the lowest version of a member that can apply the operation: a new kind
// needs the version that brings it, and a known kind needs a higher one when its body has a field that older
// members do not know. A leader may write an operation only when every member has that version. A replica
// halts at an operation that needs more than it has (fsm.Apply): no field may be ignored, because its state
// would differ from the others'.
const commandV1 byte = 1

// memberVersion is the version of members of this release: the highest that an operation may need.
const memberVersion = 1

type kind byte

const (
	kindTxn    kind = 1 // conditions, writes, appends
	kindGrant  kind = 2 // a new lease
	kindRevoke kind = 3 // the end of leases, and of their keys
)

// errUnsupported marks bytes of a version or kind that this release does not know. Errors that wrap it say
// which.
var errUnsupported = errors.New("this release reads version 1")

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
	const needs = 1 // all fields of all kinds are of the first version
	w := writer{buf: make([]byte, 0, len(body.buf)+12)}
	w.byte(byte(op.kind))
	w.uint(needs)
	w.bytes(body.buf)
	return w.buf
}

const writeDeletes byte = 1 // flag of a write that deletes its key

// encodeTxn encodes a transaction: its conditions, writes, appends and trims, each list behind its length.
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
	w.uint(uint64(len(t.Trim)))
	for _, trim := range t.Trim {
		w.string(trim.Stream)
		w.uint(trim.Before)
	}
}

// decodeCommand decodes a command. Strings of bytes in the result are parts of b, not copies. It never
// panics, whatever b is. A version or kind that this release does not know is errUnsupported, anything else
// that is wrong errMalformed.
func decodeCommand(b []byte) (command, error) {
	r := reader{buf: b}
	if v := r.byte(); r.err == nil && v != commandV1 {
		return command{}, fmt.Errorf("a command of version %d: %w", v, errUnsupported)
	}
	c := command{time: r.nonNegative()}
	c.ops = make([]operation, r.count(3)) // an operation has at least 3 bytes: kind, needs and length
	for i := range c.ops {
		k, needs := kind(r.byte()), r.uint()
		body := r.bytes()
		if r.err != nil {
			break
		}
		if needs < 1 || needs > memberVersion {
			return command{}, fmt.Errorf("an operation that needs version %d: %w", needs, errUnsupported)
		}
		op, err := decodeOperation(k, body)
		if err != nil {
			return command{}, err
		}
		c.ops[i] = op
	}
	return c, r.end()
}

// decodeOperation decodes the body of an operation of kind k. Bytes that are left over are an error: with
// fields that this release does not know, the operation would need a higher version.
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
		return op, fmt.Errorf("an operation of kind %d: %w", k, errUnsupported)
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
	t.Trim = make([]Trim, r.count(2))
	for i := range t.Trim {
		t.Trim[i] = Trim{Stream: r.string(), Before: r.uint()}
	}
	// Commit refuses such a transaction, so no leader has proposed it: the bytes are damaged.
	if r.err == nil && t.check() != nil {
		r.fail()
	}
	return t
}
