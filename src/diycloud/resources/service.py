"""What the host has, beside what is promised."""

from __future__ import annotations

from diycloud.actions.dispatcher import Context
from diycloud.agent import protocol as wire
from diycloud.resources.actions import Host, ShowHost
from diycloud.users import repository


async def show_host(ctx: Context, action: ShowHost) -> Host:
    capacity = await ctx.services.agent.call(wire.Capacity(), wire.HostCapacity)
    cores, memory = await ctx.services.database.read_long(repository.promised)
    unsettled = await ctx.services.database.read_long(repository.count_unsettled)
    return Host(
        cores=capacity.cores,
        memory=capacity.memory,
        promised_cores=cores,
        promised_memory=memory,
        slices=capacity.slices,
        unsupported=capacity.unsupported,
        unsettled=unsettled,
        orphans=ctx.services.report.orphans,
        stopped=ctx.services.report.stopped,
        locked_out=await ctx.services.database.read_long(repository.locked_out, 100),
    )
