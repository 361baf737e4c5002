"""Policies: wrappers around a work, an async function in and an async function out."""
