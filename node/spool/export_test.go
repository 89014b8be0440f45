package spool

// DiskFault is diskFault, for the test of a disk that cannot be filled without privileges.
var DiskFault = diskFault
