package spool

// DiskFault is diskFault, for a test without the privileges to fill a disk.
var DiskFault = diskFault
